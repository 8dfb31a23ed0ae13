"""What the gates say of the recordings and of the embedded bench, without what differs from run to run.

    python tests/recorded/record.py            run the gates and write the goldens in this folder again

Times, paths, ids, digests and the machine are replaced by words. What is left must stay equal to the digit; a commit
that changes it on purpose says so.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

RECORDED = ("--h2o-logs", "fixtures/recordings/smollm2-135m", "--h2o-set", "model_layers=30")
EMBEDDED = ("-k", "smoke", "--h2o-bench", "reference", "--h2o-decode-baseline", "none", "--h2o-threads", "1")
EMBEDDED += ("--h2o-set", "repeat=1")  # it is deterministic

WORDS = (
    (re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"<svg.*?</svg>", re.DOTALL), "<svg/>"),
    (re.compile(r"\d[\d.,]*(?:e-?\d+)? MB/s"), "SPEED"),
)
TIMED = re.compile(
    r"_s$|_us$|tok_s|_per_s$|^(seconds|version|pid|python|machine|encode_mb_s|decode_mb_s|decode|prefill)$"
)
TIMED_METRICS = re.compile(r"decode|_us$|tok|_s$|queue|backpressure")


def command(out: Path, *arguments: str) -> list[str]:
    """The arguments of pytest that run the gates, in the root of the repository, with run folders in `out`."""
    return ["gates", "-p", "no:cacheprovider", "--h2o-out-dir", str(out), *arguments]


def gate(out: Path, *arguments: str) -> Path:
    """Run the gates in a process of their own and return the run folder."""
    words = [sys.executable, "-m", "pytest", *command(out, *arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = out.glob("2*")
    return folder


def plain_text(text: str, out: Path) -> str:
    """A text without paths, ids and times."""
    text = text.replace(str(out), "OUT").replace(str(ROOT), "ROOT")
    for pattern, word in WORDS:
        text = pattern.sub(word, text)
    return text


def plain_json(value: Any, out: Path, key: str = "") -> Any:
    """A JSON value without paths, ids, machine, versions, times and what was timed."""
    if value is not None and key in ("machine", "versions"):
        return dict.fromkeys(value, key.upper()) if isinstance(value, dict) else key.upper()
    if isinstance(value, dict):
        return {name: plain_json(item, out, name) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_json(item, out, key) for item in value]
    if isinstance(value, str):
        return plain_text(value, out)
    if isinstance(value, float) and TIMED.search(key):
        return "TIMED"
    return value


def recorded_goldens(folder: Path) -> dict[str, str]:
    """The artifacts of a gate on the recordings, by file name."""
    out = folder.parent
    texts = {"summary.md": plain_text((folder / "summary.md").read_text("utf-8"), out)}
    page = plain_text((folder / "report.html").read_text("utf-8"), out)
    texts["report.txt"] = page_words(page)
    for name in ("figures.json", "summary.json"):
        value = json.loads((folder / name).read_text("utf-8"))
        if name == "figures.json":
            value["record"]["versions"] = "VERSIONS"
            value["record"]["settings"]["threads"] = "CORES"
        texts[name] = json.dumps(plain_json(value, out), indent=1, ensure_ascii=False) + "\n"
    texts["journal.json"] = journal_items(folder)
    for path in sorted(folder.glob("offline_*.json")):
        value = json.loads(path.read_text("utf-8"))
        texts[path.name] = json.dumps(plain_json(value, out), indent=1, ensure_ascii=False) + "\n"
    return texts


def page_words(page: str) -> str:
    """What a reader of the page sees, a line a text; without the end of the appendix: machine and versions."""
    body = page[page.index("<body") : page.rindex(">Machine<")]
    body = re.sub(r"<(style|script).*?</\1>", "", body, flags=re.DOTALL)
    words = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"<[^>]*>", body)]
    return "\n".join(word for word in words if word) + "\n"


def journal_items(folder: Path) -> str:
    """What the journal keeps of each item, by item: the outcome and each comparison, to the digit."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text("utf-8").splitlines()]
    kept = ("item", "kind", "name", "outcome", "reason", "comparisons", "notes")
    items = sorted(({key: line[key] for key in kept} for line in lines), key=lambda line: str(line["item"]))
    return json.dumps(plain_json(items, folder.parent), indent=1, ensure_ascii=False) + "\n"


def embedded_goldens(folder: Path) -> dict[str, str]:
    """The exact figures of the embedded bench."""
    record = json.loads((folder / "figures.json").read_text("utf-8"))["record"]
    subjects = {
        f"{subject['name']} {row}": {
            name: round(value, 5)  # further digits differ from processor to processor
            for name, value in figures.items()
            if not TIMED_METRICS.search(name)
        }
        for subject in record["subjects"]
        if subject["kind"] == "preset"
        for row, figures in subject["figures"].items()
    }
    return {"embedded.json": json.dumps(plain_json(subjects, folder.parent), indent=1) + "\n"}


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        texts = recorded_goldens(gate(Path(place) / "recorded", *RECORDED))
        texts |= embedded_goldens(gate(Path(place) / "embedded", *EMBEDDED))
    for name, text in texts.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
