"""What the `victorian` command can do: a function a verb, its flags derived from its types."""
