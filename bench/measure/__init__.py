"""What llama.cpp, a server or an endpoint is asked, and how fast it answers."""
