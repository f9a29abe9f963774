"""Messages into pixels and vectors."""
