// An operation's tensors in words, for errors and traces: "x [3, 4] float32, gain [4] float32".
#pragma once
#include <string.h>

#include <string>
#include <type_traits>

#include "ops.h"

namespace sonde {

inline const char* dtype_name(DType dtype) {
  constexpr const char* names[] = {"float32", "bfloat16", "float16", "int32", "bool"};
  return names[int(dtype)];
}

inline void describe_view(std::string& text, const char* name, size_t length, const View& view) {
  if (!view.data) return;
  if (!text.empty()) text += ", ";
  text.append(name, length);
  text += " [";
  for (int d = 0; d < view.rank; ++d) text += (d ? ", " : "") + std::to_string(view.shape[d]);
  text += "] ";
  text += dtype_name(view.dtype);
}

// `names` is a parameter list of native/ops.h: "Out out, In x, double eps"
template <class... A>
std::string describe_arguments(const char* names, const A&... arguments) {
  std::string text;
  const auto describe = [&](const auto& argument) {
    const char* end = strchr(names, ',');
    if (!end) end = names + strlen(names);
    const char* begin = end;
    while (begin > names && begin[-1] != ' ') --begin;
    if constexpr (std::is_base_of_v<View, std::decay_t<decltype(argument)>>) {
      describe_view(text, begin, size_t(end - begin), argument);
    }
    names = *end ? end + 1 : end;
  };
  (describe(arguments), ...);
  return text;
}

// layer_norm -> layerNorm, as JavaScript names it
inline std::string public_name(const char* name) {
  std::string out;
  for (; *name; ++name) out += *name == '_' ? char(*++name - 'a' + 'A') : *name;
  return out;
}

}  // namespace sonde
