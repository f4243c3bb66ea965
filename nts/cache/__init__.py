"""On-disk cache of tensors: encoded targets and encoded references."""

from .tensors import SCHEMA_VERSION, TensorCache, content_key, default_cache

__all__ = ["SCHEMA_VERSION", "TensorCache", "content_key", "default_cache"]
