"""DINOv2 and DINOv3 encoders: images to patch tokens."""

from .model import FAMILIES, Encoder, fingerprint

__all__ = ["FAMILIES", "Encoder", "fingerprint"]
