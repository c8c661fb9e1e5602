// Training-by-sampling (Xu et al., 2019, section 4.3) for one row, on host and device: its condition (a label), a row
// of the table that has it, and the codes of that row. fastgan/training/sampled.py draws the same numbers.
#pragma once
#include "formulas.h"
#include "plan.h"

namespace fastgan {
inline namespace FASTGAN_ISA {

// The first index below `count` where `holds` is true, or `count`; it is true from there on.
FASTGAN_CALLS_BACK
template <class Function>
FASTGAN_HD int64_t first_where(int64_t count, Function&& holds) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (holds(first + half))
      count = half;
    else
      first += half + 1, count -= half + 1;
  }
  return first;
}

// The label that two numbers in (0, 1) choose: of a column, any as likely, by weight.
FASTGAN_HD int32_t chosen_label(const TablePlan& table, double which, double weight) {
  const auto column = int64_t(which * double(table.columns));
  const int64_t begin = table.starts[column], count = table.starts[column + 1] - begin;
  const double wanted = double(column) + weight;
  const int64_t code = first_where(count, [&](int64_t i) { return table.cumulative[begin + i] >= wanted; });
  return int32_t(begin + (code < count ? code : count - 1));
}

FASTGAN_HD int64_t column_of(const TablePlan& table, int32_t label) {
  return first_where(table.columns, [&](int64_t i) { return table.starts[i] > int64_t(label); }) - 1;
}

// The number of the row that a number in (0, 1) chooses of those that have this label; of all, if there are no labels.
FASTGAN_HD int64_t chosen_row(const TablePlan& table, int64_t rows, int32_t label, double u) {
  if (table.columns == 0) return int64_t(u * double(rows));
  const int64_t position = table.first[label] + int64_t(u * double(table.counts[label]));
  return table.order[column_of(table, label) * rows + position];
}

// The feature that is one, in a group of a row.
FASTGAN_HD int64_t feature_of(const TablePlan& table, int64_t row, int64_t group) {
  const int64_t at = row * table.groups + group;
  return table.group_at[group] + (table.wide ? int64_t(static_cast<const int32_t*>(table.codes)[at])
                                             : int64_t(static_cast<const int16_t*>(table.codes)[at]));
}

// The outputs of G for the labels of a label's column, and which of them is the label's.
struct Labelled {
  int64_t first, width, code;

  FASTGAN_HD Labelled(const TablePlan& table, int32_t label) {
    const int64_t column = column_of(table, label), begin = table.starts[column];
    first = table.group_at[table.places[column]], width = table.starts[column + 1] - begin, code = label - begin;
  }
};

}  // namespace FASTGAN_ISA
}  // namespace fastgan
