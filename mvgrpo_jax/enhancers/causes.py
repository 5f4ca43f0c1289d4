"""Why captions did not come, and what to do: from counted reasons to a sentence that a user can act on."""

from __future__ import annotations

import collections

_THINKING = (
    "The model thinks, and its thoughts take the place of the answer: turn thinking off through --extra, as the model's chat "
    'template has it (Qwen3: {"chat_template_kwargs": {"enable_thinking": false}}; the server must be one that passes it '
    "on), or raise --max-tokens so that the thoughts end"
)
_SERVER = "Look at the server's log"
REMEDIES = {
    "rejected: unfinished thinking": _THINKING,
    "rejected: no text within max_tokens": _THINKING,
    "rejected: cut off": "Answers end before their first sentence does: raise --max-tokens",
    "rejected: empty": "Answers are empty: see that --model is a chat model, and that it answers rather than thinks (--extra)",
    "rejected: refusal": "The model will not rewrite this: another --model may, or take such prompts out",
    "rejected: language": "Answers are not in --language: another --model, or --language '' to take all",
    "rejected: repetition": "Answers go round in circles: another --model or --temperature",
    "rejected: length": "Answers do not do what was asked: a larger --model, or a lower --temperature",
    "rejected: meaning": "Answers do not do what was asked: a larger --model, or a lower --temperature",
    "rejected: finish reason": "The server ended its answers before they were whole: see its filters and its log",
    "bad request": "The server does not take the request: see --extra, --max-tokens and the length that it serves",
    "error: refused": "See --endpoint, --model, the key (--key-env, --key-file) and --ca-file",
    "error: connection": "See that the server runs at --endpoint",
    "error: timeout": "Answers take longer than --attempt-s: raise it with --request-s, or lower --concurrency",
    "error: deadline": "Answers take longer than --request-s: raise it, or lower --concurrency",
    "error: busy": "The server turns requests away: lower --concurrency",
    "error: server error": _SERVER,
    "error: malformed": f"{_SERVER}: it does not answer as the OpenAI protocol has it",
    "error: too large": f"{_SERVER}: its answers are larger than any caption",
    "repeat": "Answers repeat each other: raise --similarity or lower --k",
    "operation not applicable": "The embedded grammar changes its own world's prompts alone: give --endpoint for others",
}


def listed(reasons: collections.Counter[str], most: int = 4) -> str:
    """'30 rejected: cut off, 2 error: timeout', the commonest first."""
    return ", ".join(f"{n} {name}" for name, n in reasons.most_common(most))


def remedy(reasons: collections.Counter[str]) -> str:
    """What to do about those that are a fifth of all or more; empty when nothing is known."""
    many = [name for name, n in reasons.most_common() if 5 * n >= reasons.total()]
    advice = (text for name in many for key, text in REMEDIES.items() if name.startswith(key))
    return ". ".join(dict.fromkeys(advice))
