# SPDX-License-Identifier: MIT
"""Prometheus's text format (0.0.4), read as strictly as `promtool check metrics` does, and its conventions for names."""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SERIES = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
UNITS = ("_seconds", "_bytes")
NO_UNITS = ("_ms", "_milliseconds", "_minutes", "_kib", "_mib", "_percent")


class Family:
    def __init__(self, name):
        self.name, self.kind, self.help = name, None, None
        self.series = {}  # (name, ((label, value), ...)) -> value


def family_of(name, families):
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and base in families and families[base].kind == "histogram":
            return base
    return name


def _histogram(f):
    """Buckets that grow, the last of them all, and a sum."""
    sets = {}
    for (name, labels), v in f.series.items():
        rest = tuple(p for p in labels if p[0] != "le")
        sets.setdefault(rest, {"le": []})
        if name == f.name + "_bucket":
            sets[rest]["le"].append((float(dict(labels)["le"]), v))
        else:
            sets[rest][name.removeprefix(f.name)] = v
    for labels, h in sets.items():
        bounds, counts = zip(*h["le"])
        assert list(bounds) == sorted(set(bounds)) and bounds[-1] == float("inf"), (f.name, labels)
        assert list(counts) == sorted(counts) and counts[-1] == h["_count"], (f.name, labels)
        assert h["_sum"] >= 0, (f.name, labels)


def _names(f):
    if f.kind == "counter":
        assert f.name.endswith("_total"), f"counter {f.name} without _total"
    else:
        assert not f.name.endswith(("_total", "_count", "_sum", "_bucket")), f"{f.kind} {f.name}"
    base = f.name.removesuffix("_total")
    assert not base.endswith(NO_UNITS), f"{f.name}: not in base units"
    assert f.kind != "histogram" or base.endswith(UNITS), f"{f.name} has no unit"
    assert f.help, f"{f.name} has no HELP"
    for (name, labels), v in f.series.items():
        assert f.kind == "gauge" or v >= 0, (name, labels, v)
        assert len(dict(labels)) == len(labels) and not any(k.startswith("__") for k, _ in labels), (name, labels)


def check(text):
    """The families by name; AssertionError says what is wrong."""
    families, now = {}, None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            if what == "HELP":
                assert name not in families, f"{name} comes twice"
                now = families[name] = Family(name)
                now.help = rest
            else:
                assert what == "TYPE" and now and now.name == name and not now.series and now.kind is None, line
                now.kind = rest
                assert rest in ("counter", "gauge", "histogram"), line
            continue
        m = SERIES.fullmatch(line)
        assert m, f"no series: {line!r}"
        assert now and family_of(m[1], families) == now.name, f"not with its family: {line}"
        key = m[1], tuple(LABEL.findall(m[2] or ""))
        assert key not in now.series, f"twice: {line}"
        now.series[key] = float(m[3])
    for f in families.values():
        assert f.kind, f"{f.name} has no TYPE"
        _names(f)
        if f.kind == "histogram":
            _histogram(f)
    return families
