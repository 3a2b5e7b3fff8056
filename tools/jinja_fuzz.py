"""Random templates: mostly well-formed, of everything the language has."""

NAMES = ["s", "t", "empty", "u", "html", "n", "neg", "zero", "f", "half", "yes", "no", "nil", "l", "words", "nested", "d", "users", "items", "lines", "nothing", "loop", "ns", "x", "y", "m"]
ATTRIBUTES = ["name", "age", "tags", "a", "b", "items", "keys", "get", "k", "first", "last", "index", "length", "upper", "split", "zz", "previtem"]
LITERALS = ["0", "1", "2", "-1", "3", "1.5", "0.0", "2.0", "1e3", "true", "false", "none", "''", "'a'", "'b,c'", "'Hello World'", "'é'", "[]", "[1, 2]", "{}", "{'a': 1}", "()", "(1, 'x')", "\" sp \"", "'%s'", "'{}'", "'%d-%s'"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "count", "first", "last", "list", "join", "join(', ')", "sum", "min", "max", "sort", "sort(reverse=true)", "unique | list", "reverse | list", "reverse", "string", "int", "float", "abs", "round", "round(1)", "default('q')", "d('q', true)", "tojson", "tojson(indent=2)", "items | list", "dictsort", "map('string') | list", "map(attribute='name') | list", "map('upper') | join('-')", "select | list", "reject | list", "select('odd') | list", "selectattr('age') | list", "rejectattr('zz') | list", "select('string') | list", "batch(2) | list", "slice(2) | list", "replace('a', 'b')", "indent", "indent(2, true)", "escape", "safe", "e", "center(9)", "wordcount", "truncate(9)", "format(1)", "format(1, 'z')", "groupby('city')", "attr('name')", "urlencode", "striptags", "tojson | length", "list | length", "sort(attribute='age') | list", "map('default', 'z') | list", "map('length') | list", "trim('a')", "unique", "filesizeformat", "forceescape", "xmlattr"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping", "sequence", "iterable", "callable", "odd", "even", "lower", "upper", "divisibleby(2)", "divisibleby 3", "eq(1)", "equalto('a')", "ne 1", "gt 1", "lt(2)", "in [1, 'a']", "sameas none", "escaped", "ge(0)", "in(d)"]
METHODS = ["upper()", "lower()", "title()", "strip()", "strip('a')", "lstrip()", "rstrip()", "split()", "split(',')", "split(' ', 1)", "rsplit(',', 1)", "splitlines()", "startswith('a')", "endswith('d')", "replace('a', 'b')", "find('o')", "index('o')", "count('o')", "join(['a', 'b'])", "join('xyz')", "format(1, 2)", "items()", "keys()", "values()", "get('a')", "get('zz', 1)", "capitalize()", "isdigit()", "isalpha()", "islower()", "zfill(5)", "center(7)", "ljust(7)", "partition(' ')", "copy()", "append(1)", "pop()", "swapcase()", "casefold()", "removeprefix('H')", "istitle()", "items() | list", "index(1)", "count(1)", "foo()", "rjust(3, '*')"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in", "~", "+", "=="]
SAFE_TESTS = ["defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "callable", "boolean", "true", "eq(1)", "sameas none"]
SAFE_FILTERS = ["string", "default('q')", "d('q', true)", "upper", "lower", "trim", "escape", "safe", "title", "string | length", "replace('a', 'b')", "string | list | first", "string | reverse"]
SPACES = ["", " ", "\n", "  ", "\n  ", "text", " x\n", "\n\n"]


def expression(rng, depth=0):
    kind = rng.random()
    if depth > 3 or kind < 0.22:
        return rng.choice(NAMES)
    if kind < 0.34:
        return rng.choice(LITERALS)
    inner = expression(rng, depth + 1)
    if kind < 0.50:
        return f"{inner} {rng.choice(BINARY)} {expression(rng, depth + 1)}"
    if kind < 0.64:
        return f"{inner} | {rng.choice(FILTERS)}"
    if kind < 0.70:
        return f"{inner} is {rng.choice(['', 'not '])}{rng.choice(TESTS)}"
    if kind < 0.78:
        return f"({inner}).{rng.choice(METHODS)}" if rng.random() < 0.5 else f"{rng.choice(NAMES)}.{rng.choice(METHODS)}"
    if kind < 0.83:
        return f"({inner}).{rng.choice(ATTRIBUTES)}"
    if kind < 0.87:
        return f"({inner})[{expression(rng, depth + 2)}]"
    if kind < 0.90:
        bounds = [rng.choice(["", "0", "1", "-1", "2", "-2", "n", "none"]) for _ in range(rng.choice([2, 2, 3]))]
        return f"({inner})[{':'.join(bounds)}]"
    if kind < 0.93:
        return f"({inner} if {expression(rng, depth + 1)}" + (f" else {expression(rng, depth + 1)})" if rng.random() < 0.7 else ")")
    if kind < 0.95:
        return f"not {inner}"
    if kind < 0.97:
        return f"[{inner}, {expression(rng, depth + 1)}]"
    if kind < 0.98:
        return f"{{'k': {inner}, {rng.choice(['1', 'none', chr(39) + 'z' + chr(39)])}: {expression(rng, depth + 1)}}}"
    return f"({inner}, {expression(rng, depth + 1)})"


def safe_expression(rng, depth=0):
    """One that nothing makes raise, so that the rest of a template is reached."""
    kind = rng.random()
    if depth > 2 or kind < 0.4:
        return rng.choice(NAMES)
    if kind < 0.5:
        return rng.choice(LITERALS)
    inner = safe_expression(rng, depth + 1)
    if kind < 0.7:
        return f"{inner} {rng.choice(['~', '==', '!=', 'and', 'or', '~'])} {safe_expression(rng, depth + 1)}"
    if kind < 0.8:
        return f"({inner}) is {rng.choice(['', 'not '])}{rng.choice(SAFE_TESTS)}"
    if kind < 0.9:
        return f"({inner}) | {rng.choice(SAFE_FILTERS)}"
    return f"({inner} if {safe_expression(rng, depth + 1)}" + (f" else {safe_expression(rng, depth + 1)})" if rng.random() < 0.7 else ")")


def value(rng, depth=0):
    return expression(rng, depth) if rng.random() < 0.04 else safe_expression(rng, depth)


def tag(rng, content):
    left, right = rng.choice(["", "", "-", "+"]), rng.choice(["", "", "-", "+"])
    return "{%" + left + " " + content + " " + right + "%}"


def output(rng):
    return "{{" + rng.choice(["", "", "-"]) + " " + value(rng) + " " + rng.choice(["", "", "-"]) + "}}"


def body(rng, depth):
    return "".join(statement(rng, depth) for _ in range(rng.randint(1, 3)))


def statement(rng, depth=0):
    kind = rng.random()
    if depth > 2 or kind < 0.35:
        return rng.choice(SPACES) + output(rng) + rng.choice(SPACES)
    if kind < 0.40:
        return rng.choice(SPACES) + "{#" + rng.choice(["", "-", "+"]) + " c " + rng.choice(["", "-", "+"]) + "#}" + rng.choice(SPACES)
    if kind < 0.55:
        text = tag(rng, "if " + value(rng)) + body(rng, depth + 1)
        if rng.random() < 0.3:
            text += tag(rng, "elif " + value(rng)) + body(rng, depth + 1)
        if rng.random() < 0.5:
            text += tag(rng, "else") + body(rng, depth + 1)
        return text + tag(rng, "endif")
    if kind < 0.72:
        target = rng.choice(["x", "x", "x", "y"])
        source = rng.choice(["l", "words", "users", "d.items()", "d", "s", "nested", "range(3)", "lines.split()", value(rng, 2)])
        if source in ("d.items()", "lines.split()") and rng.random() < 0.5:
            target, source = "x, y", "d.items()"
        condition = " if " + value(rng, 2) if rng.random() < 0.2 else ""
        text = tag(rng, f"for {target} in {source}{condition}") + body(rng, depth + 1)
        if rng.random() < 0.2:
            text += tag(rng, rng.choice(["break", "continue"]))
        if rng.random() < 0.3:
            text += tag(rng, "else") + body(rng, depth + 1)
        return text + tag(rng, "endfor")
    if kind < 0.84:
        name = rng.choice(["x", "y", "ns.a", "ns.b", "s", "x, y"])
        assigned = f"{value(rng)}, {value(rng)}" if name == "x, y" else value(rng)
        return tag(rng, f"set {name} = {assigned}")
    if kind < 0.88:
        return tag(rng, "set " + rng.choice(["x", "y | upper", "y | trim"])) + body(rng, depth + 1) + tag(rng, "endset")
    if kind < 0.92:
        name = rng.choice(["m", "m2"])
        signature = rng.choice(["", "x", "x, y=2", "x=1", "y, x=s"])
        return tag(rng, f"macro {name}({signature})") + body(rng, depth + 1) + tag(rng, "endmacro") + "{{ " + name + "(" + rng.choice(["", "1", "n, 2", "x=3"]) + ") }}"
    if kind < 0.94:
        return tag(rng, "with x = " + value(rng, 2) + ", y = x") + body(rng, depth + 1) + tag(rng, "endwith")
    if kind < 0.96:
        return tag(rng, "filter " + rng.choice(["upper", "trim", "replace('a', 'b')", "indent"])) + body(rng, depth + 1) + tag(rng, "endfilter")
    if kind < 0.98:
        return tag(rng, "generation") + body(rng, depth + 1) + tag(rng, "endgeneration")
    sign = rng.choice(["", "", "-"])
    return "{%" + sign + " raw " + sign + "%} {{ x }} {%" + sign + " endraw " + rng.choice(["", "-", "+"]) + "%}"


def template(rng):
    text = body(rng, 0)
    return "{% set ns = namespace(a=1) %}" + text
