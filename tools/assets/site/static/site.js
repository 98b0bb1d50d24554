document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".formula").forEach(typesetMath));
