"""The jobs a person starts: one file per command, recipes beside them."""
