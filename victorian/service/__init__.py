"""The engine on the network: HTTP, server-sent events, WebSocket. Knows no Ray."""
