"""What a comparison found, as a table and as a plot."""


def limit_of(row, limits):
    """(fraction, what of) of the limit a row is bound by: reading for decode, multiplying for prefill."""
    limit = limits.get(row["threads"])
    if not limit:
        return None
    if row["phase"] == "decode":
        return row["bytes_per_token"] * row["prism"]["median"] / limit["read_bytes_per_second"], "read"
    kind = max(("int8", "bf16"), key=lambda kind: limit[f"{kind}_operations_per_second"])
    return row["operations_per_token"] * row["prism"]["median"] / limit[f"{kind}_operations_per_second"], kind


def spread(samples):
    return f"{samples['median']:.1f} ({samples['min']:.1f} to {samples['max']:.1f})"


def table(result):
    rivals = list(result["rivals"])
    width = 2 + max(len(row["name"]) for row in result["rows"] + result["threads_over"])
    lines = [f"{result['cpu']}, {result['commit']}, {result['date']}, {result['rounds']} rounds; tokens/s: median (min to max)"]
    for limit in result["limits"]:
        bf16 = f", bf16 {1e-9 * limit['bf16_operations_per_second']:.0f} GOP/s" if limit["bf16_operations_per_second"] else ""
        lines.append(f"limits of {limit['threads']} thread(s): read {1e-9 * limit['read_bytes_per_second']:.1f} GB/s, int8 "
                     f"{1e-9 * limit['int8_operations_per_second']:.0f} GOP/s{bf16}")
    head = f"{'':{width}}{'Prism':>27}" + "".join(f"{name:>27}{'ratio':>7}" for name in rivals)
    lines.append(f"{head}{'bar':>7}  {'reached':8}{'of limit':>14}  fastest setting of the fastest rival")
    for row in result["rows"]:
        text = f"{row['name']:{width}}{spread(row['prism']):>27}"
        text += "".join(f"{spread(row['rivals'][name]):>27}{row['ratios'][name]:7.2f}" for name in rivals)
        of_limit = f"{100 * row['of_limit']:.1f} % {row['limit']}" if row["limit"] else "-"
        text += f"{row['bar']:7.2f}  {'yes' if row['reached'] else 'NO':8}{of_limit:>14}  "
        lines.append(text + f"{row['fastest']} {row['rivals'][row['fastest']]['variant']}")
    for row in result["threads_over"]:
        cells = f"{spread(row['over']):>27}{spread(row['normal']):>27}"
        lines.append(f"{row['name']:{width}}{cells}{row['ratio']:8.2f}{row['bar']:7.2f}  {'yes' if row['reached'] else 'NO'}  (against {row['cores']} threads)")
    reached = sum(row["reached"] for row in result["rows"] + result["threads_over"])
    lines.append(f"{reached} of {len(result['rows'] + result['threads_over'])} bars reached; "
                 f"faster than every rival in {sum(min(row['ratios'].values()) > 1 for row in result['rows'])} of {len(result['rows'])} rows")
    return "\n".join(lines)


def plot(result, path):
    """Ratios as bars, with a mark where the one to llama.cpp has to be. The suffix of the path says which format."""
    import matplotlib  # only who wants a plot needs it
    matplotlib.use("Agg")
    from matplotlib import pyplot
    rows = result["rows"][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.35 * len(rows)), layout="constrained")
    thickness = 0.8 / len(result["rivals"])
    for n, rival in enumerate(result["rivals"]):
        colors = ["#88a"] * len(rows) if n else ["#4a7" if row["reached"] else "#c64" for row in rows]
        axes.barh([i + 0.4 - (n + 0.5) * thickness for i in range(len(rows))], [row["ratios"][rival] for row in rows], thickness, color=colors, label=rival)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.axvline(1, color="black", linewidth=0.5)
    axes.scatter([row["bar"] for row in rows], range(len(rows)), marker="|", s=200, color="black", zorder=3, label="bar")
    for i, row in enumerate(rows):
        of_limit = f", {100 * row['of_limit']:.0f} % of {row['limit']}" if row["limit"] else ""
        first = next(iter(result["rivals"]))
        axes.text(row["ratios"][first], i + 0.4 - 0.5 * thickness, f" {row['ratios'][first]:.2f}{of_limit}", va="center", fontsize=8)
    axes.set_xlabel("Prism's tokens/s by the rival's")
    axes.set_title(f"{result['cpu']}, {result['commit']}, {result['date'][:10]}", fontsize=9, loc="left")
    axes.margins(x=0.2)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path)
