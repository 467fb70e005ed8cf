//! What every layer and head keeps, as a picture.

use std::fmt::Write as _;

use super::html::escaped;
use crate::Line;

const CELL: usize = 16;
const LEFT: usize = 40;
const TOP: usize = 16;

/// A square for each layer (from left to right) and KV head (downwards), the fuller the more it keeps; none where that was
/// not measured, or where everything keeps everything.
pub(super) fn lanes(line: &Line) -> Option<String> {
    let keep = || line.keep_by_lane.iter().flatten();
    if keep().all(|&keep| keep == 1.0) {
        return None;
    }
    let heads = line.keep_by_lane.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (LEFT + CELL * line.keep_by_lane.len(), TOP + CELL * heads);
    let (least, most) = keep().fold((1.0_f64, 0.0_f64), |(low, high), &keep| (low.min(keep), high.max(keep)));
    let mut svg = format!(
        "<figure><figcaption>{}: layers keep from {least:.3} to {most:.3}</figcaption>\n<svg class=\"lanes\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"keep by layer and head\">\n",
        escaped(&line.method)
    );
    let _ = writeln!(svg, "<text x=\"{}\" y=\"12\" text-anchor=\"end\">layer</text>", LEFT - 6);
    for (layer, lanes) in line.keep_by_lane.iter().enumerate() {
        let x = LEFT + CELL * layer;
        if layer % 5 == 0 {
            let _ =
                writeln!(svg, "<text x=\"{}\" y=\"12\" text-anchor=\"middle\">{layer}</text>", x + CELL / 2);
        }
        for (head, keep) in lanes.iter().enumerate() {
            let (y, side) = (TOP + CELL * head, CELL - 1);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill-opacity=\"{keep:.3}\"><title>layer {layer}, head {head}: {keep:.4}</title></rect>"
            );
        }
    }
    svg.push_str("</svg></figure>\n");
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeftOut;

    #[test]
    fn every_lane_has_its_square_and_what_is_dense_has_none() {
        let mut line = Line {
            task: "t".into(),
            method: "<dcp>".into(),
            examples: 1,
            left_out: LeftOut::default(),
            keep: 0.5,
            held_bytes: 1.0,
            dense_bytes: 2.0,
            measures: Vec::new(),
            keep_by_lane: vec![vec![0.25, 0.5], vec![1.0, 0.125]],
        };
        let picture = lanes(&line).unwrap();
        assert_eq!(picture.matches("<rect").count(), 4);
        assert!(picture.contains("layer 1, head 1: 0.1250") && picture.contains("from 0.125 to 1.000"));
        assert!(picture.contains("&lt;dcp&gt;"));
        line.keep_by_lane = vec![vec![1.0; 2]; 2];
        assert_eq!(lanes(&line), None);
        line.keep_by_lane.clear();
        assert_eq!(lanes(&line), None);
    }
}
