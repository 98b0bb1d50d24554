"""Helpers for the course. Importing this package loads nothing heavy: each room brings its own libraries."""

from course_utils.messages import CourseError

__version__ = "0.1.0"
__all__ = ["CourseError", "__version__"]
