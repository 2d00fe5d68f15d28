"""The books of a proof: every file, field, row, picture and text of both sides is compared, declared or not compared.

An entry is {side, build, kind, state, name, reason, count}. Declared is what the mapping of a corpus or the policy
names under `leave_out`, with a reason, and what a rule of ours leaves out that says so. Whatever else was not
compared makes a proof incomplete: `not_compared` names it, and `prove` ends with exit code 4.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

KINDS = ("file", "field", "row", "picture", "text")
COMPARED, DECLARED, NOT_COMPARED = STATES = ("compared", "declared", "not compared")
_COLUMNS = ("side", "build", "kind", "state", "name", "reason")
_SHOWN = 20


def declared(leave_out: Mapping[str, str], *names: str) -> str | None:
    """The reason that `leave_out` (pattern -> reason, as a shell's) gives for the first of the names that it fits."""
    return next((why for name in names for pattern, why in leave_out.items() if fnmatchcase(name, pattern)), None)


def accounts(
    records: Iterable[Mapping[str, Any]],
    leave_out: Mapping[str, str],
    rejects: Sequence[Mapping[str, Any]],
    without_pixels: Sequence[Mapping[str, Any]],
    left_out: Sequence[Mapping[str, Any]],
    local: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """The entries of all builds, sorted.

    records: what `build.json` says. leave_out: the policy's, by `<build>/<name>`. rejects: rows {build, role, reason,
    damaged, count}. without_pixels, left_out, local: as the certificate has them (`left_out_of_near_text`,
    `local_pictures`).
    """
    counts: Counter[tuple[str, ...]] = Counter()

    def add(side: str, build: str, kind: str, state: str, name: str, reason: str, count: int) -> None:
        if state == NOT_COMPARED and (why := declared(leave_out, f"{build}/{name or kind}")):
            state, reason = DECLARED, f"policy: {why}"
        counts[side, build, kind, state, name, reason] += count

    foreign: dict[str, Mapping[str, str]] = {}
    for record in records:
        build, roles = record["build"], sorted({unit["role"] for unit in record["units"]})
        if (own := record["parameters"].get("accounting")) is not None:
            foreign[build] = record["parameters"]["mapping"]["leave_out"]
            for kind, state, name, reason, count in own:
                add(roles[0], build, kind, state, name, reason, count)
        else:
            add("/".join(roles), build, "file", COMPARED, "", "", record.get("inputs", {}).get("files", 0))
        for unit in record["units"]:
            for kind, count in ("row", unit["kept"]), ("picture", unit["images"]), ("text", unit["kept"]):
                add(unit["role"], build, kind, COMPARED, "", "", count)
        # As with rejects: what was not read of a train side of ours is in no shard.
        for side in ("eval",) * ("eval" in roles) or roles[: build in foreign]:
            for gap in record.get("gaps", ()):
                add(side, build, "file", NOT_COMPARED, gap["file"], gap["what"], gap["count"])
        if record["limit"] is not None and "eval" in roles:
            add("eval", build, "row", NOT_COMPARED, "", "a trial build (--limit) left the rest unread", 1)
    for row in rejects:
        state, why = DECLARED, "a rule of its source leaves it out"
        if row["build"] in foreign:
            mapped = declared(foreign[row["build"]], row["reason"])
            state, why = (DECLARED, f"mapping: {mapped}") if mapped else (NOT_COMPARED, "rejected; `rejects` has each")
        elif row["role"] == "train":
            why = "not in the shards, so nothing is trained from it"
        elif row["damaged"]:
            state, why = NOT_COMPARED, "damaged; `rejects` has each"
        add(row["role"], row["build"], "row", state, row["reason"], why, row["count"])
    for row in without_pixels:
        counts[row["role"], row["build"], "picture", COMPARED, "", ""] -= row["images"]
        add(row["role"], row["build"], "picture", NOT_COMPARED, "", "no pixels in this build", row["images"])
    for row in local:
        counts[row["role"], row["build"], "picture", COMPARED, "", ""] -= row["not_stored"]
        why = "not stored, so local_pictures cannot read them: `store_pictures: true` in the mapping"
        add(row["role"], row["build"], "picture", NOT_COMPARED, "local_pictures", why, row["not_stored"])
    for row in left_out:
        counts["eval", row["build"], "text", COMPARED, "", ""] -= row["eval_samples"]
        why = f"policy: left out of near text ({row['reason']})"
        add("eval", row["build"], "text", DECLARED, row["task"], why, row["eval_samples"])
    return [{**dict(zip(_COLUMNS, key, strict=True)), "count": count} for key, count in sorted(counts.items()) if count]


def totals(entries: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """Rows side, kind, the count of each state, and their sum."""
    sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for entry in entries:
        sums[entry["side"], entry["kind"]][entry["state"]] += entry["count"]
    order = sorted(sums, key=lambda key: (key[0] != "train", key[0], KINDS.index(key[1])))
    return [[*key, *(sums[key][state] for state in STATES), sums[key].total()] for key in order]


def not_compared(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was not compared and nobody declared, a line each; beyond `_SHOWN` lines they are counted."""
    lines = [
        f"{entry['side']} {entry['build']}: {entry['kind']} {entry['name'] or '(all)'}, {entry['count']:,} "
        f"({entry['reason']})"
        for entry in entries
        if entry["state"] == NOT_COMPARED
    ]
    more = [f"and {len(lines) - _SHOWN} more, in certificate.json under `accounting`"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more
