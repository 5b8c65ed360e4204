"""The lowest layer: types, trees and errors. Imports no other part of jaxgen."""
