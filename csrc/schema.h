// Enumerations and structs that know the names of their values and fields. Bindings, tests and Python read and write
// plans by these names.
#pragma once
#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

// Declares an enumeration (Kind: enum or enum class), its name, and the names of its values as "a, b, c".
#define FASTGAN_ENUM(Kind, Name, ...)                   \
  Kind Name : int{__VA_ARGS__};                         \
  constexpr const char* name_of(Name) { return #Name; } \
  constexpr const char* names_of(Name) { return #__VA_ARGS__; }

// In a struct: fields(f) calls f(name, field) for each of these, in order.
#define FASTGAN_FIELDS(...)                              \
  template <class Function>                              \
  void fields(Function&& f) {                            \
    ::fastgan::each_field(f, #__VA_ARGS__, __VA_ARGS__); \
  }

namespace fastgan {

inline std::vector<std::string> split(const std::string& list) {  // "a, b, c"
  std::vector<std::string> names;
  for (size_t at = 0, end; at < list.size(); at = end + 1) {
    end = std::min(list.find(',', at), list.size());
    at = list.find_first_not_of(" \n", at);
    names.push_back(list.substr(at, end - at));
  }
  return names;
}

template <class Function, class... Field>
void each_field(Function& f, const char* list, Field&... field) {
  const std::vector<std::string> names = split(list);
  size_t i = 0;
  (f(names[i++], field), ...);
}

// Reads fields from a sequence of arguments: a reader A has integer(), real() and pointer<T>().
template <class A>
struct InOrder {
  A& arguments;

  template <class T>
  void operator()(const std::string&, T& field) {
    if constexpr (std::is_pointer_v<T>)
      field = arguments.template pointer<std::remove_pointer_t<T>>();
    else if constexpr (std::is_floating_point_v<T>)
      field = T(arguments.real());
    else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>)
      field = T(arguments.integer());
    else
      field.fields(*this);
  }
  template <class T>
  void operator()(const std::string& name, std::vector<T>& list) {  // their number first
    list.resize(size_t(arguments.integer()));
    for (T& item : list) (*this)(name, item);
  }
};

}  // namespace fastgan
