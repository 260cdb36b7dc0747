"""Adapters and models as peft and transformers read and write them."""
