"""Queue URLs, one form for each broker."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from classifiers import SetupError

__all__ = ["FORMS", "BadQueueUrl", "QueueUrl", "with_prefetch"]

FORMS = {
    "amqp": "amqp://user:pass@host/vhost?queue=NAME",
    "amqps": "amqps://user:pass@host/vhost?queue=NAME",
    "sqs": "sqs://NAME?region=REGION&endpoint_url=URL",
    "pubsub": "pubsub://PROJECT/SUBSCRIPTION",
    "redis": "redis://host:port/db?stream=NAME",
    "rediss": "rediss://host:port/db?stream=NAME",
    "sqlite": "sqlite:///path.db",
}

_MOST_PREFETCH = 65_535


class BadQueueUrl(SetupError):
    """A queue URL that is invalid, or names a queue that does not exist; the message shows the form."""


@dataclass(frozen=True, slots=True)
class QueueUrl:
    """A queue URL in its parts.

    Attributes:
        base: the URL without query.
        path: percent-decoded, without the first ``/``.
    """

    scheme: str
    base: str
    host: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, url: str) -> QueueUrl:
        """Take a URL apart.

        Raises:
            BadQueueUrl: no scheme of a queue, or a query that cannot be read.
        """
        known = f"known forms: {', '.join(FORMS.values())}"
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise BadQueueUrl(f"the queue URL cannot be read ({error}); {known}") from error
        if parts.scheme not in FORMS:
            raise BadQueueUrl(f"the queue URL's scheme is {parts.scheme!r}; {known}")
        host, options = parts.netloc.rpartition("@")[2], dict(parse_qsl(parts.query, keep_blank_values=True))
        return cls(parts.scheme, url.partition("?")[0], host, unquote(parts.path[1:]), options)

    def need(self, option: str) -> str:
        """The value of a required option."""
        value = self.options.get(option, "")
        if not value:
            raise BadQueueUrl(f"the queue URL lacks '{option}='; it looks like {FORMS[self.scheme]}")
        return value

    def only(self, *known: str) -> None:
        """Refuse options that are not known, rather than ignore them, and those without a value."""
        for option, value in self.options.items():
            if option not in known:
                raise BadQueueUrl(
                    f"the queue URL has the option '{option}'; {self.scheme}:// has only {', '.join(known)}"
                )
            if not value:
                raise BadQueueUrl(
                    f"the queue URL has no value for '{option}='; is a variable unset? It looks like "
                    f"{FORMS[self.scheme]}"
                )
        endpoint = self.options.get("endpoint_url", "http://")
        if not endpoint.startswith(("http://", "https://")):
            raise BadQueueUrl(f"the queue URL says endpoint_url={endpoint}; it must begin with http:// or https://")
        if self.scheme in ("amqp", "amqps", "redis", "rediss"):
            try:
                _ = urlsplit(self.base).port
            except ValueError:  # its text may hold a part of a password
                raise BadQueueUrl(
                    "the queue URL's port is no number from 0 to 65535; "
                    "in a password / is written as %2F, # as %23 and ? as %3F"
                ) from None

    def flag(self, option: str) -> bool:
        """Whether an option is ``true``; by default it is not."""
        value = self.options.get(option, "false")
        if value not in ("true", "false"):
            raise BadQueueUrl(f"the queue URL says {option}={value}; it must be true or false")
        return value == "true"

    def number(self, option: str, default: float, low: float, high: float) -> float:
        """A number within limits."""
        text = self.options.get(option, str(default))
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise BadQueueUrl(f"the queue URL says {option}={text}; it must be a number from {low:g} to {high:g}")
        return value


def with_prefetch(url: str, messages: int) -> str:
    """The URL for a consumer that holds at most ``messages``. RabbitMQ sends messages ahead; without a suitable limit
    one worker would hold those that others could process. A URL with the option ``prefetch`` is returned unchanged."""
    parts = QueueUrl.parse(url)
    if parts.scheme not in ("amqp", "amqps") or "prefetch" in parts.options:
        return url
    return f"{url}{'&' if '?' in url else '?'}prefetch={min(messages, _MOST_PREFETCH)}"
