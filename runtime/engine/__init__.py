"""The leader of a generation: rounds, sequences, the queue, and the ports to drafters."""
