# SPDX-License-Identifier: MIT
"""What strangers who ask for names that nobody serves cost an edge: handshakes a second for a known name
with and without 2,000 a second for unknown ones beside it (sni.c), in turns; the gateway's memory,
processor time, files and log meanwhile. Exit status 1 when a bound does not hold: memory grows by no more
than 8 MiB (what a stall's backlog may leave in the allocator), each unknown handshake is refused, the known
names' p99 stays within 2 times, no file is made, 60 log lines a minute.

usage: sni.py [--build DIR] [--json FILE] [--seconds S] [--rate N] [--known N] [--turns N]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/e2e")]
TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--json")
    p.add_argument("--seconds", type=float, default=10)
    p.add_argument("--rate", type=int, default=2000)
    p.add_argument("--known", type=int, default=100)
    p.add_argument("--turns", type=int, default=3)
    a = p.parse_args()
    os.environ["KM_BUILD"] = str(pathlib.Path(a.build).resolve())
    import test_edge
    bench = pathlib.Path(a.build).resolve() / "bench-sni"
    rows, wrong = [], []

    def row(metric, value, unit):
        print(f"{metric:44s} {value:12.3f} {unit}", flush=True)
        rows.append({"bench": "sni", "system": "gatewayd", "metric": metric, "value": round(value, 4), "unit": unit})

    def must(ok, text):
        if not ok:
            wrong.append(text)

    with test_edge.running(acme="off") as g:
        def turn(rate):
            c = cpu(g.proc.pid)
            out = json.loads(subprocess.run([bench, str(g.https), "hello.test", str(a.seconds), str(rate), str(a.known)],
                                            check=True, capture_output=True, text=True).stdout)
            return out, cpu(g.proc.pid) - c, g.rss()

        def files():
            return sorted(str(x) for x in g.dir.rglob("*"))
        turn(a.rate)  # pools and caches fill
        before, lines, quiet, flood = files(), g.text().count("\n"), [], []
        for _ in range(a.turns):
            quiet.append(turn(0))
            flood.append(turn(a.rate))
        lines = g.text().count("\n") - lines
        must(files() == before, "files were made")
    total = [t[0] for t in quiet + flood]
    must(not sum(t["known"]["failed"] + t["unknown"]["failed"] for t in total), "handshakes failed")
    p99 = {n: statistics.median(t[0]["known"]["p99_ms"] for t in turns) for n, turns in (("quiet", quiet), ("flood", flood))}
    rate = statistics.median(t[0]["unknown"]["n"] for t in flood) / a.seconds
    row("unknown names refused", rate, "/s")
    row("unknown name, median", statistics.median(t[0]["unknown"]["p50_ms"] for t in flood), "ms")
    row("unknown name, p99", statistics.median(t[0]["unknown"]["p99_ms"] for t in flood), "ms")
    row("processor time of an unknown name", statistics.median(
        (f[1] - q[1]) * 1e6 / f[0]["unknown"]["n"] for f, q in zip(flood, quiet)), "us")
    for n, turns in (("quiet", quiet), ("flood", flood)):
        row(f"known name, median, {n}", statistics.median(t[0]["known"]["p50_ms"] for t in turns), "ms")
        row(f"known name, p99, {n}", p99[n], "ms")
    row("known name, p99, flood against quiet", p99["flood"] / p99["quiet"], "times")
    grown = (flood[-1][2] - quiet[0][2]) / 1024
    print("memory, turn by turn:", *(t[2] // 1024 for q in zip(quiet, flood) for t in q), "KiB")
    row("memory, first turn", quiet[0][2] / 1024, "KiB")
    row("memory, growth to the last turn", grown, "KiB")
    minutes = 2 * a.turns * a.seconds / 60
    row("log lines", lines / minutes, "/min")
    must(rate > 0.95 * a.rate, f"only {rate:.0f} a second got through")
    must(p99["flood"] <= 2 * p99["quiet"], "known names' p99 more than doubled")
    must(grown <= 8192, "memory grew")
    must(lines <= 60 * max(minutes, 1), "the log was flooded")
    if a.json:
        pathlib.Path(a.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(a.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit("bench-sni: " + "; ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
