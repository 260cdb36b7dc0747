"""`paceline quantize`: copies of models in integer codes."""
