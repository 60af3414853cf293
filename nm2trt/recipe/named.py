"""Names in a stage's options: the files that it reads, and the Python code that it would run."""

from __future__ import annotations

from nm2trt.recipe.schema import Stage

_METRIC_OPTIONS = "metric_options"


def named_files(stage: Stage) -> dict[str, str]:
    """Return the files that a stage's options name, by key, e.g. "metric_options.annotations"."""
    options = stage.options
    named = {key: getattr(options, key) for key in options.files}
    if texts := getattr(options, _METRIC_OPTIONS, ()):
        from nm2trt.validation.metrics.table import FILE_OPTIONS

        for text in texts:
            key, _, value = text.partition("=")
            if key in FILE_OPTIONS and value:
                named[f"{_METRIC_OPTIONS}.{key}"] = value
    return {key: value for key, value in named.items() if value is not None}


def named_code(stage: Stage) -> tuple[str, ...]:
    """Return the code that a stage names, as it is spelt: `module:function`, or a server's setting."""
    options = stage.options
    named = [name for name in getattr(options, "metrics", ()) if ":" in name]
    if stage.kind == "sparsify":
        named.append(f"named by {options.recipe}")
    elif stage.kind == "export":
        named.append(options.model)
    elif stage.kind == "deploy":
        from nm2trt.serving.config_settings import names_code

        named += [text for text in options.settings if names_code(text)]
    return tuple(named)
