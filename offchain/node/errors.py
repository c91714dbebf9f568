"""Refusals of the agent, in the shape that OpenAI's clients understand."""

from offchain.protocol.openai_errors import error_body


class ServeError(Exception):
    """The request is not served. The message says what is wrong and what to do."""

    def __init__(self, status: int, kind: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Header names and values of the answer."""
        headers = {"content-type": "application/json"}
        if self.retry_after_seconds is not None:
            headers["retry-after"] = str(self.retry_after_seconds)
        return headers

    @property
    def body(self) -> bytes:
        """OpenAI's error body."""
        return error_body(self.message, self.kind, code=self.kind)
