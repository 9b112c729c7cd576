"""A task in lm-evaluation-harness's own format, small and local."""

import json
from pathlib import Path

NAME = "prefsweep_quiz"

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: examples.jsonl
    test: questions.jsonl
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
{more}metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""

QUESTIONS = [
    ("The sky is", ["blue", "a fish", "seven", "loud"], 0),
    ("Two plus two is", ["four", "a tree", "cold", "never"], 0),
    ("Snow is", ["hot", "cold", "green", "angry"], 1),
    ("Fire is", ["wet", "hot", "soft", "square"], 1),
    ("Paris is in", ["water", "March", "gold", "France"], 3),
    ("Bread is", ["food", "blue", "an hour", "deep"], 0),
    ("A cat is an", ["animal", "ocean", "number", "engine"], 0),
    ("Water is", ["dry", "sharp", "wet", "square"], 2),
]

EXAMPLES = [("Grass is", ["green", "money", "loud", "late"], 0), ("Ice is", ["hot", "cold", "old", "fast"], 1)]


def write_quiz(folder: Path, *, name: str = NAME, more: str = "", data: bool = True) -> Path:
    """Write the task and its data into a folder; `more` is further lines of its file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, more=more))
    for file, rows in (("questions", QUESTIONS), ("examples", EXAMPLES)) if data else ():
        lines = [json.dumps({"question": q, "choices": c, "answer": a}) + "\n" for q, c, a in rows]
        (folder / f"{file}.jsonl").write_text("".join(lines))
    return folder
