"""Trained visual reference prompts: weights, configuration, models and training classes in one file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..encoder import Encoder, fingerprint
from ..memory import EncoderInfo
from ..segmenter import Segmenter, SegmenterInfo
from ..utils.files import pack_tensors, unpack_tensors, write_file
from .model import VisualReferencePrompt, VRPConfig

SCHEMA_VERSION = 1
_FORMAT = "nts-reference-prompt"


class PromptFileError(ValueError):
    """A reference prompt file cannot be read or written; the message names it and the reason."""


class PromptMismatch(ValueError):
    """A reference prompt does not fit a model, a memory or a use."""


@dataclass(frozen=True, eq=False)
class TrainedPrompt:
    """A trained visual reference prompt.

    Attributes:
        model: the network, in evaluation mode.
        encoder: DINOv2 model whose tokens it was trained on.
        segmenter: SAM2 model whose decoder it was trained with.
        classes: names of the training and validation classes. They are not novel to this prompt.
        about: training configuration and results, for display.
    """

    model: VisualReferencePrompt
    encoder: EncoderInfo
    segmenter: SegmenterInfo
    classes: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights."""
        config = json.dumps(self.model.config.to_dict(), sort_keys=True)
        return hashlib.sha256((config + fingerprint(self.model)).encode()).hexdigest()

    def check_models(self, encoder: Encoder, segmenter: Segmenter) -> None:
        """Raise :class:`PromptMismatch` unless the prompt was trained for these models."""
        if encoder.info.fingerprint != self.encoder.fingerprint or encoder.grid != self.model.config.grid:
            raise PromptMismatch(
                f"this reference prompt was trained for the encoder {self.encoder.name!r} "
                f"(weights {self.encoder.fingerprint[:12]}), not for {encoder.info.name!r} "
                f"(weights {encoder.info.fingerprint[:12]}): choose that encoder, or train a prompt for this one"
            )
        if segmenter.fingerprint != self.segmenter.fingerprint:
            raise PromptMismatch(
                f"this reference prompt was trained for the segmenter {self.segmenter.name!r} "
                f"(weights {self.segmenter.fingerprint[:12]}), not for {segmenter.name!r} "
                f"(weights {segmenter.fingerprint[:12]}): choose that segmenter, or train a prompt for this one"
            )

    def check_novel(self, classes: Iterable[str]) -> None:
        """Raise :class:`PromptMismatch` if the prompt was trained on one of these classes."""
        seen = sorted(set(classes) & set(self.classes))
        if seen:
            raise PromptMismatch(
                f"this reference prompt was trained on {', '.join(map(repr, seen))}: as novel classes they would be a "
                "leak; evaluate them as base classes, or train a prompt without them"
            )

    def kind_index(self, kind: str) -> int:
        """Index of a kind of annotation in the network's kind vectors.

        Raises:
            PromptMismatch: if the prompt was trained before this kind existed, or without it.
        """
        known: tuple[str, ...] = self.model.config.kinds
        if kind not in known:
            raise PromptMismatch(
                f"this reference prompt does not know references of the kind {kind!r}, only {', '.join(known)}: use "
                "references of these kinds, or train a new prompt"
            )
        return known.index(kind)

    def to_bytes(self) -> bytes:
        """Content of a ``.safetensors`` file, in half precision."""
        header = {
            "config": json.dumps(self.model.config.to_dict()),
            "encoder": json.dumps(asdict(self.encoder)),
            "segmenter": json.dumps(asdict(self.segmenter)),
            "classes": json.dumps(self.classes),
            "about": json.dumps(self.about),
        }
        state = {name: value.detach().cpu().half().contiguous() for name, value in self.model.state_dict().items()}
        return pack_tensors(state, _FORMAT, SCHEMA_VERSION, header)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the reference prompt") -> TrainedPrompt:
        """Load a prompt from the content of a file.

        Args:
            data: content of the file.
            source: name of the file in error messages.

        Raises:
            PromptFileError: if the content is damaged, not a reference prompt, or of a newer schema.
        """
        tensors, header = unpack_tensors(
            data, _FORMAT, SCHEMA_VERSION, noun="reference prompt", source=source, error=PromptFileError
        )
        try:
            model = VisualReferencePrompt(VRPConfig.from_dict(json.loads(header["config"])))
            model.load_state_dict({name: value.float() for name, value in tensors.items()})
            return cls(
                model.eval().requires_grad_(False),
                EncoderInfo(**json.loads(header["encoder"])),
                SegmenterInfo(**json.loads(header["segmenter"])),
                tuple(json.loads(header["classes"])),
                json.loads(header["about"]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise PromptFileError(f"{source} is damaged: its header and its tensors do not agree ({error})") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write a ``.safetensors`` file atomically: an existing file survives every failure.

        Raises:
            PromptFileError: if the file cannot be written.
        """
        try:
            write_file(Path(path), self.to_bytes())
        except OSError as error:
            raise PromptFileError(
                f"the reference prompt could not be written to {path}: {error.strerror or error}"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> TrainedPrompt:
        """Load a prompt from a file.

        Raises:
            PromptFileError: if the file is missing, damaged, not a reference prompt, or of a newer schema.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise PromptFileError(f"the file {path} could not be read: {error.strerror or error}") from error
        return cls.from_bytes(data, source=str(path))
