"""What the package declares to need, and what to type for what is not installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from packaging.markers import Marker
    from packaging.specifiers import SpecifierSet

DISTRIBUTION: Final = "llamarec"
BASE: Final = ""
"""In the place of an extra's name: what is installed without any."""


def supported_range(distribution: str, extra: str = BASE) -> str:
    """The versions of a package that the base, or an extra, declares: '>=5.3,<5.25'; empty where it declares none."""
    return declared().get(extra, {}).get(_normalised(distribution), "")


def extras_with(module: str) -> list[str]:
    """The extras that install a module, the smallest first; `BASE` where it belongs to the base.

    Args:
        module: Its name, or that of one inside it: "polars.dataframe".
    """
    distribution, packages = _normalised(module.partition(".")[0]), declared()
    found = [extra for extra in packages if distribution in packages[extra]]
    return sorted(found, key=lambda extra: (len(packages[extra]), extra))


def install_line(extra: str = BASE) -> str:
    """The command that installs the base, or an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"' if extra else f"pip install {DISTRIBUTION}"


def declared() -> dict[str, dict[str, str]]:
    """Packages and their ranges, by extra; an extra has its own extras' too. Empty if llamarec is not installed."""
    from packaging.requirements import Requirement

    try:
        content = metadata(DISTRIBUTION)
    except PackageNotFoundError:
        return {}

    requirements = [Requirement(line) for line in content.get_all("Requires-Dist") or []]
    extras = [BASE, *(content.get_all("Provides-Extra") or [])]
    own = {extra: [one for one in requirements if _belongs_to(one.marker, extra)] for extra in extras}

    def packages(extra: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in own[extra]:
            if one.name == DISTRIBUTION:
                for other in one.extras:
                    found |= packages(other)
        return found | {_normalised(one.name): _text(one.specifier) for one in own[extra] if one.name != DISTRIBUTION}

    return {extra: packages(extra) for extra in extras}


def _belongs_to(marker: Marker | None, extra: str) -> bool:
    if marker is None:
        return extra == BASE
    return marker.evaluate({"extra": extra}) and not (extra != BASE and marker.evaluate({"extra": BASE}))


def _text(specifier: SpecifierSet) -> str:
    """'>=5.3,<5.25' as people write it: the lower end first."""
    return ",".join(sorted((str(part) for part in specifier), reverse=True))


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-")
