"""Words for the App: sentences, lists and paragraphs in Markdown."""

from __future__ import annotations


def sentence(message: object) -> str:
    """Capitalise a message for the App."""
    text = str(message)
    return text[:1].upper() + text[1:]


def bullets(title: str, items: list[str], most: int = 10) -> str:
    """Markdown list under a title; empty for no items."""
    if not items:
        return ""
    shown = [f"- {item}" for item in items[:most]]
    if len(items) > most:
        shown.append(f"- and {len(items) - most} more")
    return "\n".join([f"**{title}**", "", *shown])


def paragraphs(*texts: str) -> str:
    """Join the texts that are not empty as paragraphs of Markdown."""
    return "\n\n".join(text for text in texts if text)
