"""What a chat adds to text: tools, structured answers, thoughts apart from the answer."""
