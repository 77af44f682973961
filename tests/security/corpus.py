"""What has been tried on systems like ours where a name, a path, an address or an expression was expected.

Each payload goes into every such place of every route (``test_names``): the same hole tends to come back
elsewhere. An advisory that we fix adds its payload here before the fix is merged.
"""

from __future__ import annotations

#: Stands for the path of a file outside everything that may be read; see ``test_names``.
ABSOLUTE, RELATIVE = "{absolute}", "{relative}"

PAYLOADS: tuple[str, ...] = (
    # Row 1, CVE-2023-1177, CVE-2023-2780: a source that is a local path.
    "file:///etc/passwd",
    "/etc/passwd",
    "..\\..\\..\\etc\\passwd",
    "file:" + ABSOLUTE,
    ABSOLUTE,
    RELATIVE,
    "x/" + RELATIVE,
    "./" + RELATIVE,
    # Row 2, CVE-2024-1560, CVE-2024-1593, CVE-2024-3848: decoded twice; parameters and fragments.
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "..%2f..%2fetc%2fpasswd",
    "..%c0%af..%c0%afetc%c0%afpasswd",
    ";/../../etc/passwd",
    "x;/../../../etc/passwd",
    "..;/..;/etc/passwd",
    "#/../../etc/passwd",
    "?/../../etc/passwd",
    "....//....//etc/passwd",
    # Row 5, CVE-2022-29238, CVE-2022-29241: hidden files, runtime files.
    ".jupyter/runtime/jpserver-1.json",
    ".git/config",
    "../runtime",
    # Row 7, CVE-2025-51481: an ending that satisfies a check.
    "../secret.ipynb",
    "RTC:../x.ipynb",
    # Row 8, CVE-2022-25882, CVE-2024-27318: a step aside first.
    "a/../../../../etc/passwd",
    "a/./../a/../../x",
    ".",
    "..",
    "/",
    "//",
    # Row 27, 51, 56: other hosts, other pages.
    "//evil.test/x",
    "/\\evil.test",
    "\\\\evil.test\\x",
    "\t//evil.test",
    "https:evil.test",
    "https://evil.test/x",
    "@evil.test/x",
    "http://127.0.0.1:1/x",
    # Row 23, 25, 28: inner addresses.
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    "gopher://127.0.0.1:1/_x",
    "s3://bucket/x",
    # Row 58, 60: shells, programs' options.
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "&& touch pwned",
    "-rf",
    "--upload-pack=touch pwned",
    "--output=pwned",
    "git+https://-oProxyCommand=x/y",
    "ext::sh -c touch% pwned",
    # Expressions and templates.
    "{{7*7}}",
    "${7*7}",
    "${jndi:ldap://127.0.0.1:1/x}",
    "__import__('os').system('touch pwned')",
    "' OR '1'='1",
    "'; DROP TABLE jobs; --",
    "%",
    "_",
    "*",
    "%s%s%s%n",
    "(a+)+$",
    # Row 53, 62: what a page or a terminal would obey.
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "\u202egpj.exe",
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[H",
    "\r\nSet-Cookie: a=b",
    "a\nb",
    "=cmd|'/c calc'!A1",
    # Shapes.
    "",
    " ",
    "\x00",
    "a\x00.bin",
    "\ud800",
    "é" * 10,
    "e\u0301",
    "\uff0e\uff0e\uff0f",
    "\u2024\u2024/",
    "x" * 300,
    "x" * 5000,
    "CON",
    "NaN",
    "null",
    "0",
    "-1",
    "99999999999999999999999",
    "1e309",
    "true",
    '{"__class__": "os.system"}',
)
