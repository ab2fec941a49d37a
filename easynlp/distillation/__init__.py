"""A large model, several, or a language model behind an endpoint teach a small one."""
