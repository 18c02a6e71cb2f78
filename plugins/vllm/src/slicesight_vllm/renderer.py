"""How do messages or texts become a prompt in vLLM? By the model's own processor, tokens and items together.

vLLM's usual way renders a chat template and tokenises the text. That would forget which tokens are the question, and
let a user's text spell a place for a scan; here the model's processor writes the tokens from the messages.
"""

from __future__ import annotations

from vllm.renderers.hf import HfRenderer


class Med2E3Renderer(HfRenderer):
    """Takes the place of the usual renderer for models of this kind (settings.py)."""
