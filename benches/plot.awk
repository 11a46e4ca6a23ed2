# SPDX-License-Identifier: BSD-3-Clause
# The rows of table.tsv as an SVG: times as multiples of the bare machine's, on a logarithmic scale.

function x(r) {
	if (r < LO)
		r = LO
	if (r > HI)
		r = HI
	return LEFT + WIDTH * log(r / LO) / log(HI / LO)
}
function text(s) {
	gsub(/&/, "\\&amp;", s)
	gsub(/</, "\\&lt;", s)
	return s
}

BEGIN {
	title["line"] = "persisting at CACHE_LINE granularity"
	title["byte"] = "persisting at BYTE granularity"
	title["parts"] = "placing, finding and removing parts"
	title["page"] = "persisting at PAGE granularity"
}
/^#/ { facts = facts (facts == "" ? "" : "; ") substr($0, 3); next }
$1 == "table" || $4 == "-" || $4 <= 0 || $5 == "-" { next }
$3 == "ratio" { next }
{
	n++
	table[n] = $1
	name[n] = $2
	ours[n] = $7
	peer[n] = $6 == "-" ? "-" : $6 / $4
	split($9, word, " ")
	bar[n] = word[2] == "limit" ? word[1] : "-"
	met[n] = $10
	lo = ours[n]
	hi = ours[n]
	if (peer[n] != "-") {
		lo = peer[n] < lo ? peer[n] : lo
		hi = peer[n] > hi ? peer[n] : hi
		peers++
	}
	if (n == 1 || lo < least)
		least = lo
	if (n == 1 || hi > most)
		most = hi
}
END {
	LEFT = 400
	WIDTH = 520
	ROW = 18
	TOP = 60
	LO = 0.5
	HI = 2
	while (LO > least && LO > 0.01)
		LO /= 2
	while (HI < most && HI < 200)
		HI *= 2
	height = TOP + 40
	for (i = 1; i <= n; i++)
		height += ROW + (table[i] != table[i - 1] ? ROW : 0)
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", \
		LEFT + WIDTH + 40, height
	print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
	printf "<text x=\"10\" y=\"18\" font-size=\"14\">Time as a multiple of the bare machine's: left is faster</text>\n"
	printf "<text x=\"10\" y=\"34\" font-size=\"10\" fill=\"#555\">%s</text>\n", text(facts)
	printf "<circle cx=\"%d\" cy=\"14\" r=\"4\" fill=\"#1664a0\"/><text x=\"%d\" y=\"18\">ours</text>\n", LEFT + 120, LEFT + 130
	if (peers)
		printf "<circle cx=\"%d\" cy=\"14\" r=\"4\" fill=\"none\" stroke=\"#555\"/><text x=\"%d\" y=\"18\">peer</text>\n", \
			LEFT + 180, LEFT + 190
	printf "<path d=\"M%d 8v12\" stroke=\"#c03a2b\" stroke-width=\"2\"/><text x=\"%d\" y=\"18\">bar</text>\n", LEFT + 240, LEFT + 250
	for (r = LO; r <= HI * 1.001; r *= 2) {
		printf "<path d=\"M%.1f %dV%d\" stroke=\"%s\"/>", x(r), TOP - 8, height - 30, r == 1 ? "#333" : "#ddd"
		printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">%g</text>\n", x(r), height - 14, r
	}
	y = TOP
	for (i = 1; i <= n; i++) {
		if (table[i] != table[i - 1]) {
			y += ROW
			printf "<text x=\"10\" y=\"%d\" font-weight=\"bold\">%s</text>\n", y - 4, text(title[table[i]])
		}
		y += ROW
		printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", LEFT - 10, y - 4, text(name[i])
		if (bar[i] != "-")
			printf "<path d=\"M%.1f %dv12\" stroke=\"#c03a2b\" stroke-width=\"2\"/>\n", x(bar[i]), y - 14
		if (peer[i] != "-")
			printf "<circle cx=\"%.1f\" cy=\"%d\" r=\"4\" fill=\"none\" stroke=\"#555\"/>\n", x(peer[i]), y - 8
		printf "<circle cx=\"%.1f\" cy=\"%d\" r=\"4\" fill=\"#1664a0\"><title>%.2f</title></circle>\n", x(ours[i]), y - 8, ours[i]
	}
	print "</svg>"
}
