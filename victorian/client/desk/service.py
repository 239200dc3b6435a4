"""Where the model is, and the clients that go there."""

from dataclasses import dataclass
from functools import cached_property
from weakref import finalize

from victorian.client.client import Client

HASTY_SECONDS = 5.0


@dataclass(frozen=True)
class Service:
    """Where the model is.

    Its clients are closed when nobody has it any more, no desk and no passage under way: who uses one keeps this.
    """

    url: str | None = None
    """None for what the environment says."""
    key: str | None = None
    model: str | None = None
    """None for the service's first."""

    @cached_property
    def client(self) -> Client:
        """For passages: they may take their time.

        Raises:
            AuthenticationError: if no key can be `key`.
        """
        return self._kept(Client(self.url, key=self.key, retries=1))

    @cached_property
    def hasty_client(self) -> Client:
        """The same for what a page waits for. Kept, since a new one costs a tenth of a second."""
        return self._kept(Client(self.url, HASTY_SECONDS, key=self.key, retries=0))

    def _kept(self, client: Client) -> Client:
        finalize(self, client.close)
        return client
