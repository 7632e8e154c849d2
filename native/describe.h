// An operation's tensors as text, for errors and traces: "x [3, 4] float32, gain [4] float32".
#pragma once
#include <string.h>

#include <string>
#include <type_traits>
#include <vector>

#include "ops.h"

namespace sonde {

inline const char* dtype_name(DType dtype) {
  constexpr const char* names[] = {"float32", "bfloat16", "float16", "int32", "bool"};
  return names[int(dtype)];
}

// A tensor among an operation's arguments.
struct Argument {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

// `names` is a parameter list of native/ops.h: "Out out, In x, double eps". Arguments that were left out or
// are no tensors are not among them.
template <class... A>
std::vector<Argument> tensor_arguments(const char* names, const A&... arguments) {
  std::vector<Argument> out;
  const auto add = [&](const auto& argument) {
    const char* end = strchr(names, ',');
    if (!end) end = names + strlen(names);
    const char* begin = end;
    while (begin > names && begin[-1] != ' ') --begin;
    if constexpr (std::is_base_of_v<View, std::decay_t<decltype(argument)>>) {
      const View& view = argument;
      if (view.data) out.push_back({{begin, end}, view.dtype, {view.shape, view.shape + view.rank}});
    }
    names = *end ? end + 1 : end;
  };
  (add(arguments), ...);
  return out;
}

inline std::string describe_arguments(const std::vector<Argument>& arguments) {
  std::string text;
  for (const auto& [name, dtype, shape] : arguments) {
    text += (text.empty() ? "" : ", ") + name + " [";
    for (size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
    text += std::string("] ") + dtype_name(dtype);
  }
  return text;
}

// " 5120 candidates, 2 of 171 groups fell back", or nothing where there was no filter
inline std::string describe_counts(const FilterCounts& counts) {
  if (counts.groups == 0) return "";
  char text[96];
  snprintf(text, sizeof text, " %lld candidates, %lld of %lld groups fell back",
           static_cast<long long>(counts.candidates), static_cast<long long>(counts.fell_back),
           static_cast<long long>(counts.groups));
  return text;
}

// layer_norm -> layerNorm, as JavaScript names it
inline std::string public_name(const char* name) {
  std::string out;
  for (; *name; ++name) out += *name == '_' ? char(*++name - 'a' + 'A') : *name;
  return out;
}

}  // namespace sonde
