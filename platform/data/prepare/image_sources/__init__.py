"""Where single images come from: a class a source."""
