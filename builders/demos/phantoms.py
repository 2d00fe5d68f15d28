"""Procedural chest radiographs whose truth is known: picture and report come from one description.

Nothing here is data of a person. A `Phantom` says what is to be seen; `builders.demos.phantom_pictures` draws it, and
`builders.demos.phantom_reports` writes its report. All are pure functions: random-looking choices are BLAKE2b digests
of named integer seeds. Lengths are centimetres on the detector unless a name says `mm`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, TypeVar

View = Literal["PA", "AP", "LATERAL"]
Side = Literal["left", "right", "bilateral"]
Zone = Literal["upper", "middle", "lower"]
FindingKind = Literal["effusion", "pneumothorax", "consolidation", "nodule", "cardiomegaly", "edema"]
DeviceKind = Literal["endotracheal tube", "pacemaker", "central line", "sternotomy wires"]

SIZES = ("small", "moderate", "large")
SEVERITIES = ("mild", "moderate", "severe")

_SIDED: frozenset[FindingKind] = frozenset(("effusion", "pneumothorax", "consolidation", "nodule"))
_ZONED: frozenset[FindingKind] = frozenset(("consolidation", "nodule"))
_T = TypeVar("_T")


@dataclass(frozen=True)
class Anatomy:
    """One person. Lengths in cm; everything that the fields do not say is drawn from `seed`."""

    seed: int
    sex: Literal["F", "M"]
    age: int
    half_width: float
    """From the midline to the inner chest wall at its widest."""
    lung_height: float
    """From the lung apex to the top of the right diaphragm, full inspiration."""
    heart_ratio: float
    """Cardiothoracic ratio without cardiomegaly, 0.40 to 0.48."""
    rib_spacing: float
    habitus: float
    """Soft tissue, 0 (thin) to 1 (obese)."""


@dataclass(frozen=True)
class Finding:
    """One abnormality. `grade` is 1 to 3 (`SIZES`, `SEVERITIES`); a nodule has its diameter `mm` instead."""

    kind: FindingKind
    side: Side | None = None
    grade: int = 2
    zone: Zone | None = None
    mm: int | None = None

    def __post_init__(self) -> None:
        fits = (
            (self.side is not None) == (self.kind in _SIDED)
            and (self.zone is not None) == (self.kind in _ZONED)
            and (self.mm is not None) == (self.kind == "nodule")
            and not (self.kind == "nodule" and self.side == "bilateral")
        )
        if not fits or not 1 <= self.grade <= 3:
            raise ValueError(f"not a describable finding: {self}")

    @property
    def size(self) -> str:
        """Its size in words: `small`, `severe`, `12 mm`."""
        if self.mm is not None:
            return f"{self.mm} mm"
        return (SIZES if self.kind in _SIDED else SEVERITIES)[self.grade - 1]


@dataclass(frozen=True)
class Device:
    """A support device; `side` for pacemakers (generator) and central lines; `tip_mm`: tube tip above the carina."""

    kind: DeviceKind
    side: Literal["left", "right"] | None = None
    tip_mm: int | None = None

    def __post_init__(self) -> None:
        sided = self.kind in ("pacemaker", "central line")
        if (self.side is not None) != sided or (self.tip_mm is not None) != (self.kind == "endotracheal tube"):
            raise ValueError(f"not a describable device: {self}")


@dataclass(frozen=True)
class Phantom:
    """One exposure: a person, a view, what is to be seen. `seed` varies positioning, exposure and noise only."""

    anatomy: Anatomy
    view: View
    seed: int
    findings: tuple[Finding, ...] = ()
    devices: tuple[Device, ...] = ()

    def __post_init__(self) -> None:
        places = [(part.kind, part.side, part.zone) for part in parts(self.findings)]
        kinds = [device.kind for device in self.devices]
        if len(set(places)) < len(places) or len(set(kinds)) < len(kinds):
            raise ValueError("a finding or device is listed twice for one place")


def draw(seed: int, name: str, low: float = 0.0, high: float = 1.0) -> float:
    """A number in [low, high) that depends on `seed` and `name` only."""
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return low + (high - low) * ((int.from_bytes(digest, "big") >> 11) / 2**53)


def choose(seed: int, name: str, options: Sequence[_T]) -> _T:
    """One of `options`, by `seed` and `name` only."""
    return options[int(draw(seed, name) * len(options))]


def anatomy(seed: int) -> Anatomy:
    """A person drawn from `seed`."""
    sex: Literal["F", "M"] = choose(seed, "sex", ("F", "M"))
    scale = 0.94 if sex == "F" else 1.03
    return Anatomy(
        seed=seed,
        sex=sex,
        age=int(draw(seed, "age", 24, 91)),
        half_width=scale * draw(seed, "width", 12.2, 14.6),
        lung_height=scale * draw(seed, "height", 20.5, 25.5),
        heart_ratio=draw(seed, "heart", 0.40, 0.48),
        rib_spacing=draw(seed, "ribs", 2.3, 3.0),
        habitus=draw(seed, "habitus"),
    )


def make(seed: int, view: View = "PA") -> Phantom:
    """A person with 0 to 3 findings and 0 to 2 devices; about a third show no finding."""
    findings: list[Finding] = []
    for index in range(choose(seed, "findings", (0, 0, 0, 1, 1, 1, 2, 2, 3))):
        _add(findings, _finding(seed, f"finding {index}"))
    devices = [
        device
        for chance, device in (
            (0.10, Device("endotracheal tube", tip_mm=int(draw(seed, "tip", 25, 65)))),
            (0.14, Device("pacemaker", choose(seed, "generator", ("left", "left", "left", "right")))),
            (0.16, Device("central line", choose(seed, "line", ("right", "right", "left")))),
            (0.14, Device("sternotomy wires")),
        )
        if draw(seed, device.kind) < chance
    ]
    return Phantom(anatomy(seed), view, seed, tuple(findings), tuple(devices[:2]))


def follow_up(previous: Phantom, seed: int) -> Phantom:
    """The same person at a later study: findings grow, shrink, stay, go or come; tubes and lines are removed."""
    findings: list[Finding] = []
    for index, finding in enumerate(previous.findings):
        course = draw(seed, f"course {index}")
        if finding.kind == "nodule" and finding.mm is not None:
            findings.append(replace(finding, mm=finding.mm + (0 if course < 0.5 else 2 + int(6 * course))))
        elif course < 0.35 or (finding.kind == "cardiomegaly" and course < 0.75):
            findings.append(finding)
        elif course < 0.60:
            findings.append(replace(finding, grade=min(3, finding.grade + 1)))
        elif finding.grade > 1 and course < 0.90:
            findings.append(replace(finding, grade=finding.grade - 1))
    if draw(seed, "new") < 0.3:
        _add(findings, _finding(seed, "new finding"))
    devices = [
        device
        for device in previous.devices
        if device.kind in ("pacemaker", "sternotomy wires") or draw(seed, f"keep {device.kind}") < 0.6
    ]
    if draw(seed, "new line") < 0.1 and all(device.kind != "central line" for device in devices):
        devices.append(Device("central line", choose(seed, "line", ("right", "left"))))
    return replace(previous, seed=seed, findings=tuple(findings), devices=tuple(devices))


def _finding(seed: int, name: str) -> Finding:
    sided: tuple[FindingKind, ...] = ("effusion",) * 2 + ("pneumothorax",) + ("consolidation",) * 2 + ("nodule",)
    others: tuple[FindingKind, ...] = ("cardiomegaly", "cardiomegaly", "edema")
    kind: FindingKind = choose(seed, f"{name} kind", (*sided, *others))
    grade = 1 + int(draw(seed, f"{name} grade", 0, 3))
    if kind not in _SIDED:
        return Finding(kind, grade=grade)
    side: Side = choose(seed, f"{name} side", ("left", "right"))
    if kind == "effusion":
        side = choose(seed, f"{name} sides", (side, side, "bilateral"))
    zone: Zone = choose(seed, f"{name} zone", ("upper", "middle", "lower"))
    if kind == "nodule":
        return Finding(kind, side, zone=zone, mm=int(draw(seed, f"{name} mm", 8, 29)))
    return Finding(kind, side, grade, zone if kind in _ZONED else None)


def _add(findings: list[Finding], finding: Finding) -> None:
    """Append unless the place is taken; one sided abnormality of a kind keeps pictures and reports legible."""
    if all(other.kind != finding.kind for other in findings):
        findings.append(finding)


def parts(findings: Sequence[Finding]) -> list[Finding]:
    """Findings with `bilateral` taken apart into right and left."""
    single: list[Finding] = []
    for finding in findings:
        sides: tuple[Side | None, ...] = ("right", "left") if finding.side == "bilateral" else (finding.side,)
        single += [replace(finding, side=side) for side in sides]
    return single
