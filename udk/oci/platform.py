"""Platforms (image-spec, image-index.md) and which image of an index suits one.

Architectures have Go's names. Variants are ordered: a host runs what was built for its own variant or a lower
one.
"""

from __future__ import annotations

from udk.errors import PlatformError, UsageError
from udk.oci.record import Record
from udk.oci.text import clean, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from udk.oci.descriptor import Descriptor
    from udk.oci.manifest import Index

# uname -m and usual aliases -> (architecture, variant)
_ALIASES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "i386": ("386", ""), "i486": ("386", ""),
    "i586": ("386", ""), "i686": ("386", ""), "x86": ("386", ""), "aarch64": ("arm64", ""),
    "aarch64_be": ("arm64be", ""), "armv8l": ("arm", "v8"), "armv8b": ("armbe", ""), "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"), "armv7": ("arm", "v7"), "armel": ("arm", "v6"), "armv6l": ("arm", "v6"),
    "armv6": ("arm", "v6"), "armv5tel": ("arm", "v5"), "armv5l": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
    "powerpc64le": ("ppc64le", ""), "mips": ("mips", ""),
}  # fmt: skip
# What an image without a variant means, and what a host of that architecture at least is.
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
# x86-64 levels by the flags of /proc/cpuinfo that each adds (x86-64 psABI, section 3.1.1)
_AMD64_LEVELS = (
    ("v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


class Platform(Record):
    """``os/architecture[/variant]``; ``os_version`` and ``os_features`` matter for Windows only."""

    __slots__ = ("architecture", "os", "os_features", "os_version", "variant")
    os: str
    architecture: str
    variant: str
    os_version: str
    os_features: tuple[str, ...]

    def __init__(
        self,
        os: str,
        architecture: str,
        variant: str = "",
        os_version: str = "",
        os_features: Sequence[str] = (),
    ) -> None:
        self._init(
            os=os, architecture=architecture, variant=variant, os_version=os_version,
            os_features=tuple(os_features),
        )  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``linux/arm64/v8``, ``linux/arm64``, ``arm64`` or a machine name of uname. Raises UsageError."""
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(_is_word(p) for p in parts):
            raise UsageError(f"{quoted(text)} is not a platform", "write it as linux/amd64 or linux/arm64/v8")
        if len(parts) == 1:
            if parts[0] == "linux":
                return cls.host()
            parts = ["linux", parts[0]]
        os, architecture = parts[:2]
        architecture, variant = _ALIASES.get(architecture, (architecture, ""))
        return cls(os, architecture, parts[2] if len(parts) == 3 else variant)

    @classmethod
    def host(cls) -> Platform:
        """The platform of this machine; the variant is filled in for 32-bit ARM only."""
        from os import uname

        machine = uname().machine.lower()
        architecture, variant = _ALIASES.get(machine, (machine, ""))
        return cls("linux", architecture, variant)

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)

    @property
    def normalized(self) -> Platform:
        """With aliases of the architecture resolved and default variants (arm64/v8, amd64/v1) dropped."""
        architecture, variant = _ALIASES.get(self.architecture, (self.architecture, ""))
        variant = self.variant or variant
        if variant and not variant.startswith("v") and architecture in _DEFAULT_VARIANT:
            variant = "v" + variant  # some builders write "7" or "8"
        if architecture in ("arm64", "amd64") and variant == _DEFAULT_VARIANT[architecture]:
            variant = ""
        return Platform(self.os, architecture, variant, self.os_version, self.os_features)

    def rank(self, image: Platform, level: str = "") -> int:
        """How well ``image`` suits this platform: -1 not at all, else higher is better.

        ``level``: the variant that a host of this platform supports when it names none itself."""
        want, have = self.normalized, image.normalized
        if want.os != have.os or want.architecture != have.architecture:
            return -1
        wanted = want.variant or level or _DEFAULT_VARIANT.get(want.architecture, "")
        given = have.variant or _DEFAULT_VARIANT.get(have.architecture, "")
        if wanted == given:
            return 1_000_000
        upper, lower = _ordinal(wanted), _ordinal(given)
        if upper < 0 or lower < 0:  # unordered variants, as power9: only the plain image also suits
            return 0 if not given else -1
        return lower if lower <= upper else -1


def host_variant(architecture: str) -> str:
    """The highest variant of ``architecture`` this machine supports, ``""`` when that cannot be told."""
    if architecture != "amd64":
        return ""
    flags: frozenset[str] = frozenset()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith("flags"):
                    flags = frozenset(line.partition(":")[2].split())
                    break
    except OSError:
        return ""
    level = "v1"
    for name, needs in _AMD64_LEVELS:
        if not flags.issuperset(needs.split()):
            break
        level = name
    return level


def candidates(index: Index, platform: Platform) -> list[Descriptor]:
    """The entries of ``index`` to try for ``platform``, best first; nested indexes without a platform last.

    Attestations and entries for unknown platforms are left out. Among equals the index's order decides."""
    from udk.oci.mediatypes import INDEXES, MANIFESTS

    ranked: list[tuple[int, int, Descriptor]] = []
    level: str | None = None
    for position, entry in enumerate(index.manifests):
        if entry.is_attestation or entry.media_type not in (*INDEXES, *MANIFESTS):
            continue
        if entry.platform is None:
            # Without a platform only the manifest itself can tell: an index may nest, a lone image is for
            # all.
            ranked.append((-1 if entry.media_type in INDEXES else -2, position, entry))
            continue
        if level is None:
            level = host_variant(platform.architecture) if not platform.variant else ""
        rank = platform.rank(entry.platform, level)
        if rank >= 0:
            ranked.append((rank, position, entry))
    ranked.sort(key=lambda r: (-r[0], r[1]))
    return [entry for _, _, entry in ranked]


def select(index: Index, platform: Platform) -> Descriptor:
    """The entry of ``index`` for ``platform``. Raises PlatformError, which lists what there is."""
    found = candidates(index, platform)
    if not found:
        raise no_image(platform, (e.platform for e in index.manifests if not e.is_attestation))
    return found[0]


def no_image(platform: Platform, available: Iterable[Platform | None]) -> PlatformError:
    """The error that says there is nothing for ``platform``, and what there is."""
    names = sorted({clean(str(p), 40) for p in available if p is not None})
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    remedy = f"choose one of these with --platform: {shown}" if names else ""
    return PlatformError(f"the image has no variant for {platform}", remedy)


def _is_word(text: str) -> bool:
    return (
        bool(text)
        and len(text) < 64
        and text.isascii()
        and text.replace("_", "a").replace("-", "a").replace(".", "a").isalnum()
    )


def _ordinal(variant: str) -> int:
    digits = variant[1:] if variant.startswith("v") else ""
    return int(digits) if digits.isdigit() and len(digits) < 4 else -1
