"""A peer's end of the benchmarks: compare.ts asks, a line of JSON for a line of JSON (worker.ts)."""
import json
import math
import sys
import time


def own_memory(line):
    with open("/proc/self/status") as status:
        return next(1024 * int(text.split()[1]) for text in status if text.startswith(line))


def serve(describe, prepare, synchronize=lambda: None, drop=lambda: None):
    """prepare(spec, seed) gives what is to be repeated and a function that computes its error, or None; and where there is
    one, a function that is called instead of timing the former, and gives seconds."""
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
            run, error, *seconds = prepare(request["spec"], request["seed"])
            repeat(run, 1)
            prepared.append((run, *seconds))
            return {"prepared": len(prepared) - 1, **({"error": error()} if error else {})}
        if what == "time":
            run, *seconds = prepared[request["prepared"]]
            if seconds:
                return {"seconds": seconds[0]()}
            if request["warm"]:
                repeat(run, 1)  # a device that was idle has a low clock
            return {"seconds": repeat(run, request["repetitions"])}
        if what == "memory":
            run, *_ = prepare(request["spec"], request["seed"])
            synchronize()
            before = own_memory("VmRSS")
            for _ in range(request["repetitions"]):
                repeat(run, 1)
            return {"memory": {"before": before, "peak": own_memory("VmHWM")}}
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
