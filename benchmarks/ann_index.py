"""Exact, IVF and HNSW as a collection grows to a million vectors: time for a question, memory, recall, time to build.

    python benchmarks/ann_index.py [--largest N] > data/ann_index.csv

The same indexes and the same data as in notebook 12: vectors of the handbook's passages with noise, made as they are
needed. One thread. All three take turns at every size, so that what else the machine does weighs on them alike; the
median of five rounds is printed, as notebook 12 plots it. A million vectors need about 3 GiB and four minutes.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import faiss
import numpy as np
from sentence_transformers import SentenceTransformer

from course_utils.handbook_data import load_handbook, split_passages
from course_utils.models import find_model

SIZES = [1_000, 10_000, 100_000, 1_000_000]
QUESTIONS, NEIGHBOURS, ROUNDS = 200, 10, 5


def exact(n: int, d: int) -> faiss.Index:
    """Every vector is looked at."""
    return faiss.IndexFlatIP(d)


def ivf(n: int, d: int) -> faiss.Index:
    """√n cells, of which the 16 nearest are searched."""
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, int(n**0.5), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 16
    return index


def hnsw(n: int, d: int) -> faiss.Index:
    """A graph with 16 neighbours each; 64 candidates are kept while walking."""
    index = faiss.IndexHNSWFlat(d, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    return index


def noisy(vectors: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n vectors around the given ones, of length 1."""
    rng, d = np.random.default_rng(seed), vectors.shape[1]
    made = rng.standard_normal((n, d), dtype=np.float32)
    made /= d**0.5
    made += vectors[rng.integers(len(vectors), size=n)]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def seconds(index: faiss.Index, asked: np.ndarray) -> float:
    """How long all the questions take."""
    start = time.perf_counter()
    index.search(asked, NEIGHBOURS)
    return time.perf_counter() - start


def compare(n: int, vectors: np.ndarray, makers: list[Callable[[int, int], faiss.Index]]) -> None:
    """Print a line for each index at one size."""
    stored, asked = noisy(vectors, n, seed=1), noisy(vectors, QUESTIONS, seed=2)
    indexes, built = {}, {}
    for make in makers:
        start = time.perf_counter()
        index = make(n, vectors.shape[1])
        index.train(stored)
        index.add(stored)
        indexes[make.__name__], built[make.__name__] = index, time.perf_counter() - start
    del stored
    rounds = [{name: seconds(index, asked) for name, index in indexes.items()} for _ in range(ROUNDS)]
    _, true = indexes["exact"].search(asked, NEIGHBOURS)
    for name, index in indexes.items():
        _, found = index.search(asked, NEIGHBOURS)
        recall = np.mean([len({*a} & {*b}) / NEIGHBOURS for a, b in zip(found, true, strict=True)])
        spent = median(each[name] for each in rounds) / QUESTIONS
        size = len(faiss.serialize_index(index)) / 1e6
        print(f"{n},{name},{1000 * spent:.3f},{size:.0f},{recall:.3f},{built[name]:.1f}", flush=True)


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave out larger collections")
    largest = parser.parse_args().largest
    faiss.omp_set_num_threads(1)
    model = SentenceTransformer(str(find_model("bge-small-zh-v1.5").folder), device="cpu", local_files_only=True)
    texts = [passage.text for document in load_handbook() for passage in split_passages(document)]
    vectors = model.encode(texts, normalize_embeddings=True)
    print("vectors,index,ms,mb,recall,seconds_to_build")
    for n in SIZES:
        if n <= largest:
            compare(n, vectors, [exact, ivf, hnsw])


if __name__ == "__main__":
    main()
