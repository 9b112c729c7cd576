"""What a user would write for the same requests: `LLM(...)`, then `generate` on all of them.

`python plain_vllm.py REQUESTS.json RESULT.json`, in the interpreter that has vLLM; only that and the standard library
are imported.
"""

import json
import sys
import time
from pathlib import Path


def main(requests: Path, result: Path) -> None:
    """Start an engine, warm it up, draw every response, and write the seconds of each."""
    started = time.monotonic()
    from vllm import LLM, SamplingParams

    given = json.loads(requests.read_text())
    llm = LLM(**given["engine"])
    ready = time.monotonic()

    def draw(prompts: list[list[int]], samples: int) -> tuple[int, int, int]:
        # A seed of its own for every request, where the settings have one: the same for all would draw the same.
        seeds = [{"seed": i} if "seed" in given["sampling"] else {} for i in range(len(prompts))]
        params = [SamplingParams(n=samples, **{**given["sampling"], **seed}) for seed in seeds]
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        responses = [sample for output in outputs for sample in output.outputs]
        finished = sum(sample.finish_reason == "stop" for sample in responses)
        return len(responses), sum(len(sample.token_ids) for sample in responses), finished

    draw(given["warm_up"], min(2, given["samples"]))
    begun = time.monotonic()
    responses, tokens, finished = draw(given["prompts"], given["samples"])
    seconds = time.monotonic() - begun
    figures = {"ready": ready - started, "seconds": seconds, "responses": responses, "tokens": tokens}
    result.write_text(json.dumps({**figures, "finished": finished}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
