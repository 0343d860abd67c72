"""Labels from people: what was asked, what was answered, and the files and servers that carry both."""
