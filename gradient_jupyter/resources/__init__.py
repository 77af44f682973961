"""The nouns, one module each: fields, states, allowed transitions, wire form. No I/O.

Everything here is a frozen ``msgspec`` struct; what a struct looks like here is what goes over the
wire, what the client returns and what the documentation says.
"""
