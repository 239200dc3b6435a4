"""Everything that knows Ray: the same rooms, spread over machines. Wiring, and no logic of its own."""
