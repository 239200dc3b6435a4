"""What people and programs use to talk to a service. Loads neither torch nor Ray."""

from victorian.client.async_client import AsyncClient
from victorian.client.client import Client
from victorian.client.streams import Answer, AsyncStream, Stream

__all__ = ["Answer", "AsyncClient", "AsyncStream", "Client", "Stream"]
