"""The functions of Synapse's notebook utilities, and which of them localazure has: `python <this file>` prints the list
that docs/parity.md holds. The names are Microsoft's; those not documented for Synapse but for Fabric are told apart.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities
https://learn.microsoft.com/fabric/data-engineering/notebook-utilities
"""

from __future__ import annotations

import ast
from pathlib import Path

COMPUTE = Path(__file__).resolve().parents[2] / "compute" / "notebookutils"
#: Module -> the functions Microsoft documents; an asterisk: by Fabric only.
DOCUMENTED = {
    "credentials": (
        "getToken isValidToken getSecret getSecretWithLS putSecret putSecretWithLS getConnectionStringOrCreds"
        " getFullConnectionString getConnectionStringAsMap getPropertiesAll help"
    ),
    "env": "getUserName getUserId getJobId getWorkspaceName getPoolName getClusterId help",
    "fs": (
        "ls exists mkdirs head put append cp fastcp mv rm mount unmount mounts refreshMounts getMountPath"
        " mountToDriverNode* unmountFromDriverNode* help"
    ),
    "notebook": (
        "exit run runMultiple validateDAG help create* get* update* delete* list* getDefinition* updateDefinition*"
    ),
    "runtime": "context",
    "session": "stop restartPython help",
    "lakehouse*": "",
    "udf*": "",
    "variableLibrary*": "",
}


def table() -> str:
    """The list, in Markdown."""
    rows = ["| Module | There | Refused by name |", "|---|---|---|"]
    refused_modules = _keys(_tree("__init__"), "_REFUSED")
    for module, names in DOCUMENTED.items():
        bare = module.rstrip("*")
        if not names:
            assert bare in refused_modules, f"notebookutils.{bare} is neither there nor refused"
            rows.append(f"| `{bare}` | | the whole module (Microsoft Fabric's) |")
            continue
        tree = _tree(bare)
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | _attributes(tree)
        refused = _keys(tree, "_REFUSED")
        found: dict[bool, list[str]] = {True: [], False: []}
        for name in names.split():
            plain = name.rstrip("*")
            assert (plain in there) != (plain in refused), f"notebookutils.{bare}.{plain}: there or refused?"
            found[plain in there].append(f"`{plain}`" + (" (Fabric's)" if name.endswith("*") else ""))
        rows.append(f"| `{bare}` | {', '.join(found[True])} | {', '.join(found[False])} |")
    return "\n".join(rows)


def _tree(module: str) -> ast.Module:
    return ast.parse((COMPUTE / f"{module}.py").read_text(encoding="utf-8"))


def _attributes(tree: ast.Module) -> set[str]:
    """Names that a module's `__getattr__` answers, as `runtime.context`."""
    return {
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Name)
        and node.left.id == "name"
        and isinstance(node.ops[0], ast.Eq)
        and isinstance(node.comparators[0], ast.Constant)
    }  # type: ignore[misc]


def _keys(tree: ast.Module, name: str) -> set[str]:
    """The names in a module's table of what it refuses."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return {each.value for each in ast.walk(node.value) if _is_name(each)}  # type: ignore[attr-defined]
    return set()


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()


if __name__ == "__main__":
    print(table())
