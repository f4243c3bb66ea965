"""A trained visual reference prompt as a file: weights, configuration, and what it was trained on and for."""

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
    """A file of a reference prompt that cannot be read or written. The message says which, and why."""


class PromptMismatch(ValueError):
    """A reference prompt, and a model or a use that it was not trained for."""


@dataclass(frozen=True, eq=False)
class TrainedPrompt:
    """A trained visual reference prompt.

    Attributes:
        model: the network, in evaluation mode.
        encoder: the DINOv2 whose tokens it reads.
        segmenter: the SAM2 whose decoder it prompts.
        classes: names of the classes that it was trained on, those of its validation too. They are not novel to it.
        about: how it was trained: numbers and words, for people.
    """

    model: VisualReferencePrompt
    encoder: EncoderInfo
    segmenter: SegmenterInfo
    classes: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what decides a result: configuration and weights."""
        config = json.dumps(asdict(self.model.config), sort_keys=True)
        return hashlib.sha256((config + fingerprint(self.model)).encode()).hexdigest()

    def check_models(self, encoder: Encoder, segmenter: Segmenter) -> None:
        """Raise :class:`PromptMismatch` unless these are the models that it was trained for."""
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
        """Raise :class:`PromptMismatch` if it was trained on one of these classes: they are not novel to it."""
        seen = sorted(set(classes) & set(self.classes))
        if seen:
            raise PromptMismatch(
                f"this reference prompt was trained on {', '.join(map(repr, seen))}: as novel classes they would be a "
                "leak; evaluate them as base classes, or train a prompt without them"
            )

    def to_bytes(self) -> bytes:
        """As the content of a ``.safetensors`` file; half precision."""
        header = {
            "config": json.dumps(asdict(self.model.config)),
            "encoder": json.dumps(asdict(self.encoder)),
            "segmenter": json.dumps(asdict(self.segmenter)),
            "classes": json.dumps(self.classes),
            "about": json.dumps(self.about),
        }
        state = {name: value.detach().cpu().half().contiguous() for name, value in self.model.state_dict().items()}
        return pack_tensors(state, _FORMAT, SCHEMA_VERSION, header)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the reference prompt") -> TrainedPrompt:
        """Read one from the content of its file; ``source`` names it in messages.

        Raises:
            PromptFileError: if the content is damaged, is no reference prompt, or has a newer schema.
        """
        tensors, header = unpack_tensors(
            data, _FORMAT, SCHEMA_VERSION, noun="reference prompt", source=source, error=PromptFileError
        )
        try:
            config = json.loads(header["config"])
            model = VisualReferencePrompt(VRPConfig(**config | {"grid": tuple(config["grid"])}))
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
        """Write it to one file. It is replaced at once or not at all: an old file survives every failure.

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
        """Read one from a file.

        Raises:
            PromptFileError: if the file is missing, damaged, no reference prompt, or of a newer schema.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise PromptFileError(f"the file {path} could not be read: {error.strerror or error}") from error
        return cls.from_bytes(data, source=str(path))
