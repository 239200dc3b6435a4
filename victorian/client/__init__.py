"""What people and programs use to talk to a service. Loads neither torch nor Ray."""

from victorian.client.client import Client, Stream

__all__ = ["Client", "Stream"]
