"""What is learned, as peft and transformers read and write it."""
