"""The wire: .proto files and the modules generated from them."""
