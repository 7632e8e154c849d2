"""A peer's end of the benchmarks: compare.ts asks, a line of JSON for a line of JSON (worker.ts)."""
import json
import math
import sys
import time


def serve(describe, prepare, synchronize=lambda: None, drop=lambda: None):
    """prepare(spec, seed) gives what is to be repeated and a function that computes its error, or None."""
    prepared = []

    def repeat(run, repetitions):
        synchronize()
        start = time.perf_counter()
        for _ in range(repetitions):
            run()
        synchronize()
        return (time.perf_counter() - start) / repetitions

    def answer(request):
        what = request["do"]
        if what == "describe":
            return {"text": describe()}
        if what == "prepare":
            run, error = prepare(request["spec"], request["seed"])
            repeat(run, 1)
            prepared.append(run)
            return {"prepared": len(prepared) - 1, **({"error": error()} if error else {})}
        if what == "time":
            run = prepared[request["prepared"]]
            if request["warm"]:
                repeat(run, 1)  # a device that was idle has a low clock
            return {"seconds": repeat(run, request["repetitions"])}
        prepared.clear()
        drop()
        return {}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # reported, so that the other cases go on
            reply = {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}
        if not math.isfinite(reply.get("error", 0)):
            reply["error"] = None
        print(json.dumps(reply), flush=True)
