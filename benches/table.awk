# SPDX-License-Identifier: BSD-3-Clause
# The rows of table.tsv as a text.

function number(x) {
	if (x == "-")
		return x
	if (x < 100)
		return sprintf("%.2f", x)
	if (x < 10000)
		return sprintf("%.1f", x)
	return sprintf("%.0f", x)
}

function ratio(x) {
	return x == "-" ? x : sprintf("%.2f", x)
}

BEGIN {
	title["line"] = "persisting at CACHE_LINE granularity"
	title["byte"] = "persisting at BYTE granularity"
	title["parts"] = "placing, finding and removing parts"
	title["page"] = "persisting at PAGE granularity"
}
/^#/ { print; next }
$1 == "table" {
	printf "# medians of the rounds; ratios are medians of the rounds' ratios; limit is the bare machine\n"
	next
}
{
	if ($1 != table) {
		table = $1
		printf "\n%-55s %-6s %10s %10s %10s %7s %7s  %-17s %s\n", title[table], "unit", "limit", \
			"ours", "peer", "/limit", "/peer", "bar", "met"
	}
	printf "%-55s %-6s %10s %10s %10s %7s %7s  %-17s %s\n", $2, $3, number($4), number($5), number($6), ratio($7), \
		ratio($8), $9 == "-" ? "-" : "<= " $9, $10
	if ($10 == "yes")
		yes++
	if ($10 == "no") {
		no++
		missed = missed sprintf("    %s: %s\n", $1, $2)
	}
	if ($10 == "-" && $9 != "-")
		open++
}
END {
	printf "\n%d bars met, %d missed", yes, no
	if (open)
		printf ", %d need a peer", open
	printf "\n%s", missed
}
